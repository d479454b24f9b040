// Mutated requests to a server that is running: each must be answered, and with nothing but an answer or a refusal.

import { connect } from 'node:net';
import { mutateBytes, mutateJsonText } from '../fuzz-mutations.js';
import { randomFrom } from '../random.js';

/** What is mutated: of every endpoint a body that is taken, with few tokens. */
const BODIES: readonly (readonly [string, object])[] = [
  [
    '/v1/completions',
    { prompt: 'a', max_tokens: 1, n: 2, temperature: 1, top_p: 0.5, seed: 3, stop: ['x', 'yz'], logprobs: 0 },
  ],
  [
    '/v1/completions',
    {
      prompt: [[5, 6], [7]],
      max_tokens: 1,
      echo: true,
      stream: true,
      stream_options: { include_usage: true },
    },
  ],
  [
    '/v1/chat/completions',
    { messages: [{ role: 'user', content: [{ type: 'text', text: 'a' }] }], max_tokens: 1, logprobs: true },
  ],
  [
    '/v1/chat/completions',
    {
      messages: [{ role: 'system', content: 'a' }],
      max_completion_tokens: 1,
      tools: [],
      response_format: { type: 'text' },
    },
  ],
  [
    '/v1/responses',
    { input: [{ role: 'user', content: 'a' }], instructions: 'b', max_output_tokens: 1, stream: true },
  ],
  ['/tokenize', { prompt: 'To be', add_special_tokens: false }],
  ['/detokenize', { tokens: [5, 6, 7], skip_special_tokens: true }],
];
const WORDS = [
  'null',
  '-1',
  '1e400',
  '"\\ud800"',
  '{}',
  '[[',
  'true',
  '99999999999',
  '__proto__',
  'max_tokens',
  'n',
].map((word) => new TextEncoder().encode(word));
/** Texts that a mutation makes longer than this cost time and nothing else. */
const DEADLINE_MS = 30_000;
const CUT_MS = 2_000;

export interface MutationResult {
  readonly requests: number;
  /** How often each status came. */
  readonly statuses: Readonly<Record<string, number>>;
  readonly failures: readonly string[];
}

/** Cases from `first` on: the same number is the same request. */
export async function runMutations(
  address: string,
  { first, count, parallel }: { readonly first: number; readonly count: number; readonly parallel: number },
): Promise<MutationResult> {
  const statuses: Record<string, number> = {};
  const failures: string[] = [];
  let next = first;
  const work = async () => {
    for (let index = next++; index < first + count && failures.length < 20; index = next++) {
      const bytes = requestOf(index);
      const answer = await exchange(address, bytes);
      const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(answer) ?? [];
      const shown = status ?? (answer === '' ? 'closed' : 'other');
      statuses[shown] = (statuses[shown] ?? 0) + 1;
      // A request that is no HTTP at all may end in a closed connection.
      const isFine = status === undefined ? answer === '' && index % 2 === 1 : /^(200|4\d\d)$/.test(status);
      if (!isFine) failures.push(`case ${index}: ${answer.slice(0, 200)}`);
    }
  };
  await Promise.all(Array.from({ length: parallel }, work));
  return { requests: Math.min(next - first, count), statuses, failures };
}

/** Even cases have mutated bodies, odd ones are mutated as a whole. */
function requestOf(index: number): Buffer {
  const random = randomFrom(index + 1);
  const [path, body] = BODIES[Math.floor(random() * BODIES.length)] as (typeof BODIES)[number];
  const text = index % 2 === 0 ? mutateJsonText(random, body, WORDS) : Buffer.from(JSON.stringify(body));
  const head =
    `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n` +
    `Content-Length: ${text.length}\r\nConnection: close\r\n\r\n`;
  const whole = Buffer.concat([Buffer.from(head), text]);
  return index % 2 === 0 ? whole : mutateBytes(random, whole, WORDS);
}

/** Rejects where no answer comes in time: the server hangs. A request that is cut ends when nothing more comes for a while. */
function exchange(address: string, bytes: Buffer): Promise<string> {
  const { hostname, port } = new URL(address);
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostname, port: Number(port) }, () => socket.write(bytes));
    // Whoever leaves is answered nothing, so it leaves only where the rest of its request is awaited.
    const waiting = setTimeout(() => socket.end(), CUT_MS);
    let answer = '';
    socket.setTimeout(DEADLINE_MS, () => {
      socket.destroy();
      reject(new Error(`no answer in ${DEADLINE_MS / 1e3} s`));
    });
    socket.setEncoding('latin1').on('data', (text: string) => {
      answer += text;
    });
    socket.on('close', () => {
      clearTimeout(waiting);
      resolve(answer);
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ECONNRESET' && error.code !== 'EPIPE') reject(error);
    });
  });
}
