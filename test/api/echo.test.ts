// Prompts that are echoed with log-probabilities: those of scoring, whatever else is computed beside them.

import { afterAll, beforeAll, expect, it } from 'vitest';
import { Engine } from '../../src/engine/engine.js';
import { openModel } from '../../src/engine/open-model.js';
import { modelFolder } from '../helpers/fixtures.js';
import { ASKING, eventsOf, type Json, type Served, serve } from './served.js';

const FOLDER = modelFolder('shakespeare-bloom');
const LONG =
  'KING RICHARD III:\nNow is the winter of our discontent made glorious summer by this sun of York.';
const PROMPTS = [LONG, 'To be, or not to be: that is the question.', 'Who'];
/** Outputs of a pass: prompts are scored in many. */
const SEQUENCES = 4;

interface LogProbs {
  readonly tokens: readonly string[];
  readonly token_logprobs: readonly (number | null)[];
  readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
  readonly text_offset: readonly number[];
}

interface Choice {
  readonly index: number;
  readonly text: string;
  readonly finish_reason: string | null;
  readonly logprobs: LogProbs | null;
}

let served: Served;
let ids: number[][];
let expected: number[][];

beforeAll(async () => {
  served = await serve(FOLDER, { sequences: SEQUENCES, contextTokens: 128 });
  ids = await served.model.tokenizer.encodeBatch(PROMPTS);
  const scoring = await Engine.open(await openModel(FOLDER), {
    offload: 'dram',
    device: 'cpu',
    cpu: { threads: 1 },
    workload: { sequences: 4, contextTokens: 128, promptTokens: 512, output: 'nll' },
  });
  const scores = ids.map((own, index) =>
    own.length < 2 ? undefined : scoring.submit({ index, scoredTokens: Int32Array.from(own) }).result,
  );
  expected = await Promise.all(scores.map(async (score) => [...((await score)?.logProbs ?? [])]));
  await scoring.close();
});

afterAll(() => served.engine.close());

async function ask(body: object): Promise<Json & { choices: Choice[] }> {
  const reply = await served.api.answer('/v1/completions', { temperature: 0, ...body }, ASKING);
  if (reply.kind === 'stream') throw new Error('a stream was not asked for');
  expect(reply).toMatchObject({ status: 200 });
  return reply.body as Json & { choices: Choice[] };
}

function expectScored(told: LogProbs | null, prompt: number): void {
  const own = ids[prompt] as number[];
  expect(told?.token_logprobs[0]).toBeNull();
  expect(told?.top_logprobs[0]).toBeNull();
  let most = 0;
  const scored = told?.token_logprobs.slice(1, own.length) as number[];
  expect(scored).toHaveLength(own.length - 1);
  scored.forEach((one, at) => {
    expect(one).toBeCloseTo(expected[prompt]?.[at] as number, 3);
    const top = told?.top_logprobs[at + 1] ?? {};
    expect(top[told?.tokens[at + 1] as string]).toBe(one);
    most = Math.max(most, Object.keys(top).length);
    expect(Math.max(...Object.values(top))).toBeLessThanOrEqual(0);
  });
  expect(most).toBeGreaterThan(1);
  expect(Math.min(...scored)).toBeLessThan(-0.5);
}

it('are scored like by the command, and what follows is as without', async () => {
  const plain = await ask({ prompt: PROMPTS, max_tokens: 5, logprobs: 2 });
  const busy = ask({ prompt: 'ROMEO:', max_tokens: 24 });
  const { choices, usage } = await ask({ prompt: PROMPTS, max_tokens: 5, logprobs: 2, echo: true });
  choices.forEach(({ text, logprobs, finish_reason: reason }, at) => {
    const own = plain.choices[at] as Choice;
    expect(text).toBe(PROMPTS[at] + own.text);
    expect(reason).toBe(own.finish_reason);
    expect(logprobs?.tokens.join('')).toBe(text);
    if ((ids[at] as number[]).length > 1) expectScored(logprobs, at);
    const first = ids[at]?.length as number;
    expect(logprobs?.tokens.slice(first)).toEqual(own.logprobs?.tokens);
    logprobs?.token_logprobs.slice(first).forEach((one, index) => {
      expect(one).toBeCloseTo(own.logprobs?.token_logprobs[index] as number, 3);
    });
    logprobs?.text_offset.forEach((offset, index) => {
      expect(text.startsWith(logprobs.tokens[index] as string, offset)).toBe(true);
    });
  });
  expect(usage).toEqual(plain.usage);
  const [alone] = (await ask({ prompt: 'ROMEO:', max_tokens: 24 })).choices;
  expect((await busy).choices[0]?.text).toBe(alone?.text);
});

it('need no new token, and are the same for every text of a prompt', async () => {
  const { choices, usage } = await ask({ prompt: PROMPTS, max_tokens: 0, logprobs: 1, echo: true, n: 2 });
  expect(choices.map(({ text }) => text)).toEqual(PROMPTS.flatMap((prompt) => [prompt, prompt]));
  expect(choices.every(({ finish_reason: reason }) => reason === 'length')).toBe(true);
  for (const at of [0, 1, 2, 3]) expectScored(choices[at]?.logprobs ?? null, Math.floor(at / 2));
  expect(usage).toMatchObject({ completion_tokens: 0 });
  expect((await ask({ prompt: 'a', max_tokens: 0, echo: true })).choices[0]).toMatchObject({ text: 'a' });
  const refused = await served.api.answer('/v1/completions', { prompt: 'a', max_tokens: 0 }, ASKING);
  expect(refused).toMatchObject({ status: 400, body: { error: { param: 'max_tokens' } } });
});

it('come before the first new token of a stream', async () => {
  const asked = { prompt: LONG, max_tokens: 3, logprobs: 1, echo: true, temperature: 0 };
  const whole = await ask(asked);
  const reply = await served.api.answer('/v1/completions', { ...asked, stream: true }, ASKING);
  if (reply.kind === 'whole') throw new Error(JSON.stringify(reply.body));
  const chunks = (await eventsOf(reply.events))
    .slice(0, -1)
    .flatMap(({ data }) => (data as typeof whole).choices);
  expect(chunks[0]).toMatchObject({ text: LONG });
  expect(chunks.flatMap(({ logprobs }) => logprobs?.tokens ?? [])).toEqual(
    whole.choices[0]?.logprobs?.tokens,
  );
  expectScored(chunks[0]?.logprobs ?? null, 0);
});

it('leave nothing behind where whoever asked has left', async () => {
  const leaving = new AbortController();
  const asking = { ...ASKING, signal: leaving.signal };
  const body = { prompt: PROMPTS, max_tokens: 0, logprobs: 0, echo: true };
  const reply = served.api.answer('/v1/completions', body, asking);
  setTimeout(() => leaving.abort(new Error('gone')), 2);
  await reply;
  await served.engine.whenIdle();
  expectScored(
    (await ask({ prompt: LONG, max_tokens: 0, logprobs: 1, echo: true })).choices[0]?.logprobs ?? null,
    0,
  );
});
