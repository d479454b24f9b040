// Many clients at once, each in its own manner: patient, streaming, slow to read, gone before the end, or talking nonsense.

import { Agent, type ClientRequest, type IncomingMessage, request } from 'node:http';
import { randomFrom } from '../random.js';
import type { OpenedService } from './opened.js';

export interface LoadOptions {
  readonly clients: number;
  /** Each client asks so often, unless the time is over. */
  readonly requestsEach: number;
  readonly untilMs?: number;
  readonly seed: number;
}

export interface LoadResult {
  /** By manner, how many requests there were. */
  readonly asked: Readonly<Record<Manner, number>>;
  /** Sentences for whatever was not as it should have been. */
  readonly problems: readonly string[];
  readonly newTokens: number;
}

const MANNERS = ['whole', 'streamed', 'slow', 'leaving', 'wrong'] as const;
type Manner = (typeof MANNERS)[number];

/** What can be asked; every answer to the same question is the same. */
const PROMPTS = ['KING RICHARD III:', 'To be, or not to be', 'ROMEO:\nShe speaks:', 'Enter the', 'My lord,'];
const WRONG = ['{', '[]', '{"prompt":5}', '{"prompt":"a","max_tokens":-1}', '{"prompt":"a","what":1}', ''];
const MOST_PROBLEMS = 20;

interface Question {
  readonly prompt: string;
  readonly max_tokens: number;
  readonly temperature: number;
  readonly seed: number;
}

function questionOf(random: () => number): Question {
  const below = (limit: number) => Math.floor(random() * limit);
  const prompt = PROMPTS[below(PROMPTS.length)] ?? '';
  return { prompt, max_tokens: 1 + below(24), temperature: below(2), seed: below(3) };
}

/** Every answer is compared with the first one to the same question, which `expected` may hold already. */
export async function runLoad(
  { address }: Pick<OpenedService, 'address'>,
  { clients, requestsEach, untilMs = Number.POSITIVE_INFINITY, seed }: LoadOptions,
  expected: Map<string, string> = new Map(),
): Promise<LoadResult> {
  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY });
  const asked = Object.fromEntries(MANNERS.map((manner) => [manner, 0])) as Record<Manner, number>;
  const problems: string[] = [];
  let newTokens = 0;
  const note = (problem: string) => {
    if (problems.length < MOST_PROBLEMS) problems.push(problem);
  };
  const compare = (question: Question, text: string) => {
    const key = JSON.stringify(question);
    const known = expected.get(key);
    if (known === undefined) expected.set(key, text);
    else if (known !== text)
      note(`${key} was answered with ${JSON.stringify(text)}, not ${JSON.stringify(known)}`);
  };
  const one = async (manner: Manner, random: () => number) => {
    const question = questionOf(random);
    const post = (body: string) => posted(`${address}/v1/completions`, body, agent);
    if (manner === 'wrong') {
      const body = WRONG[Math.floor(random() * WRONG.length)] ?? '';
      const { response } = await post(body);
      await textOf(response, 0);
      if (response.statusCode !== 400) note(`${body} was answered with ${response.statusCode}`);
      return;
    }
    const isStreamed = manner !== 'whole';
    const { response, client } = await post(JSON.stringify({ ...question, stream: isStreamed }));
    if (response.statusCode !== 200) {
      note(`${manner}: ${response.statusCode} ${await textOf(response, 0)}`);
      return;
    }
    if (manner === 'leaving') {
      const chunks = Math.floor(random() * 4);
      if (chunks > 0) await firstOf(response);
      client.destroy();
      return;
    }
    const answer = await textOf(response, manner === 'slow' ? 20 : 0);
    const { text, tokens } = isStreamed ? ofEvents(answer, note) : ofWhole(answer);
    newTokens += tokens;
    compare(question, text);
  };
  await Promise.all(
    Array.from({ length: clients }, async (_, client) => {
      const random = randomFrom(seed * 100_003 + client);
      for (let round = 0; round < requestsEach && performance.now() < untilMs; round++) {
        const manner = MANNERS[Math.floor(random() * MANNERS.length)] ?? 'whole';
        asked[manner]++;
        await one(manner, random).catch((error: unknown) => note(`${manner}: ${String(error)}`));
      }
    }),
  );
  agent.destroy();
  return { asked, problems, newTokens };
}

interface Posted {
  readonly response: IncomingMessage;
  readonly client: ClientRequest;
}

function posted(url: string, body: string, agent: Agent): Promise<Posted> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    const client = request(url, { method: 'POST', agent, headers });
    client.on('response', (response) => resolve({ response, client }));
    client.on('error', reject);
    client.end(body);
  });
}

/** @param pauseMs after each piece, as a client that reads slowly */
async function textOf(response: IncomingMessage, pauseMs: number): Promise<string> {
  let text = '';
  for await (const piece of response) {
    text += String(piece);
    if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
  return text;
}

function firstOf(response: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    response.once('data', () => resolve());
    response.once('end', () => resolve());
  });
}

interface Answer {
  readonly text: string;
  readonly tokens: number;
}

function ofWhole(answer: string): Answer {
  const { choices, usage } = JSON.parse(answer);
  return { text: `${choices[0].finish_reason}: ${choices[0].text}`, tokens: usage.completion_tokens };
}

function ofEvents(answer: string, note: (problem: string) => void): Answer {
  const lines = answer.split('\n\n').filter((line) => line.startsWith('data: '));
  if (lines.pop() !== 'data: [DONE]') note('a stream ended without its end');
  const chunks = lines.map((line) => JSON.parse(line.slice(6)).choices[0]);
  const ends = chunks.filter(({ finish_reason: reason }) => reason !== null);
  if (ends.length !== 1) note(`a stream has ${ends.length} ends`);
  const text = chunks.map((chunk) => chunk.text).join('');
  return { text: `${ends[0]?.finish_reason}: ${text}`, tokens: Math.max(0, chunks.length - 1) };
}

/** What `generate` makes of every question that was asked, by the same names. */
export function questionsOf(expected: ReadonlyMap<string, string>): Question[] {
  return [...expected.keys()].map((key) => JSON.parse(key) as Question);
}
