// Mutated requests to a server that is running: each must be answered, and with nothing but an answer or a refusal.

import { connect } from 'node:net';
import { mutateBytes, mutateJsonText } from '../fuzz-mutations.js';
import { randomFrom } from '../random.js';
import { KeptConnection } from './kept-connection.js';

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
  ['/v1/completions', { prompt: ['a b', 'c'], max_tokens: 0, echo: true, logprobs: 1, temperature: 0 }],
  [
    '/v1/responses',
    { input: 'a', max_output_tokens: 1, include: ['message.output_text.logprobs'], top_logprobs: 2 },
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
/** On a machine that has much else to do, a process may wait long for its turn. */
const DEADLINE_MS = 300_000;
/** A request of which more is awaited is left after so long. */
const CUT_MS = 1000;
/** Broken frames need a connection each, and most of their time they wait for what does not come. */
const BROKEN_AT_ONCE = 96;

export interface MutationResult {
  readonly requests: number;
  /** How often each status came. */
  readonly statuses: Readonly<Record<string, number>>;
  readonly failures: readonly string[];
}

export interface MutationRange {
  readonly first: number;
  readonly count: number;
  /** Requests whose frame is whole follow each other on so many connections. */
  readonly parallel: number;
  /** No case is begun any more after that time. */
  readonly mostMs?: number;
  readonly onProgress?: (requests: number) => void;
}

/** Cases from `first` on: the same number is the same request. */
export async function runMutations(address: string, range: MutationRange): Promise<MutationResult> {
  const { first, count, parallel, mostMs = Number.POSITIVE_INFINITY, onProgress } = range;
  const endMs = performance.now() + mostMs;
  const statuses: Record<string, number> = {};
  const failures: string[] = [];
  let requests = 0;
  const note = (index: number, answer: string) => {
    const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(answer) ?? [];
    const shown = status ?? (answer === '' ? 'closed' : 'other');
    statuses[shown] = (statuses[shown] ?? 0) + 1;
    // A request that is no HTTP at all may end in a closed connection.
    const isFine = status === undefined ? answer === '' && index % 2 === 1 : /^(200|4\d\d)$/.test(status);
    if (!isFine) failures.push(`case ${index}: ${answer.slice(0, 200)}`);
    if (++requests % 1000 === 0) onProgress?.(requests);
  };
  /** Even cases and odd ones each go their own way. */
  const lane = (parity: 0 | 1) => {
    let next = first + ((first + parity) % 2);
    return async (ask: (bytes: Buffer) => Promise<string>) => {
      while (next < first + count && failures.length < 20 && performance.now() < endMs) {
        const index = next;
        next += 2;
        note(index, await ask(requestOf(index)).catch((error: Error) => error.message));
      }
    };
  };
  const [whole, broken] = [lane(0), lane(1)];
  const connections = Array.from({ length: parallel }, () => new KeptConnection(address, DEADLINE_MS));
  await Promise.all([
    ...connections.map((connection) => whole((bytes) => connection.ask(bytes))),
    ...Array.from({ length: BROKEN_AT_ONCE }, () => broken((bytes) => exchange(address, bytes))),
  ]);
  for (const connection of connections) connection.close();
  return { requests, statuses, failures };
}

/** Even cases have mutated bodies, odd ones are mutated as a whole. */
function requestOf(index: number): Buffer {
  const random = randomFrom(index + 1);
  const [path, body] = BODIES[Math.floor(random() * BODIES.length)] as (typeof BODIES)[number];
  const text = index % 2 === 0 ? mutateJsonText(random, body, WORDS) : Buffer.from(JSON.stringify(body));
  const head =
    `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n` +
    `Content-Length: ${text.length}\r\n${index % 2 === 0 ? '' : 'Connection: close\r\n'}\r\n`;
  const whole = Buffer.concat([Buffer.from(head), text]);
  return index % 2 === 0 ? whole : mutateBytes(random, whole, WORDS);
}

/** Rejects where no answer comes in time: the server hangs. A request that is cut ends when nothing more comes for a while. */
function exchange(address: string, bytes: Buffer): Promise<string> {
  const { hostname, port } = new URL(address);
  return new Promise((resolve, reject) => {
    let waiting: NodeJS.Timeout | undefined;
    const socket = connect({ host: hostname, port: Number(port) }, () => {
      // Whoever leaves is answered nothing, so it leaves only where the rest of its request is awaited.
      socket.write(bytes, () => {
        waiting = setTimeout(() => socket.end(), CUT_MS);
      });
    });
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
