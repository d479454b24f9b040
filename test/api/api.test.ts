// OpenAI's requests without HTTP: texts are those of the engine, whole as streamed, and what is wrong is told by its field.

import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { generate } from '../../src/engine/generate.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';
import { ASKING, eventsOf, type Json, type Served, serve } from './served.js';

const newFolder = sharedFolder();
const TEMPLATE = '{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:';
const PROMPT = 'KING RICHARD III:';

let served: Served;
let reference: string[];

beforeAll(async () => {
  const folder = join(newFolder(), 'model');
  cpSync(modelFolder('shakespeare-bloom'), folder, { recursive: true });
  writeFileSync(join(folder, 'chat_template.jinja'), TEMPLATE);
  const alone = await serve(folder, { sequences: 2 });
  reference = await Promise.all(
    [PROMPT, 'u:Who are you?;a:'].map(async (prompt) =>
      greedy(alone, await alone.model.tokenizer.encode(prompt)),
    ),
  );
  await alone.engine.close();
  served = await serve(folder);
});

afterAll(() => served.engine.close());

/** What `generate` makes of it; its executor is then that job's. */
async function greedy({ engine, model }: Served, ids: readonly number[]): Promise<string> {
  const request = { index: 0, promptTokens: Int32Array.from(ids) };
  const job = { batchSize: 1, maxNewTokens: 24, stopTokens: model.room.endTokens };
  const [result] = await queueOf(() => generate(engine.executor, [request], job));
  return model.tokenizer.decode([...(result?.tokens ?? [])]);
}

let last: Promise<unknown> = Promise.resolve();
/** One job at a time. */
function queueOf<T>(job: () => Promise<T>): Promise<T> {
  const next = last.then(job);
  last = next.catch(() => undefined);
  return next;
}

async function ask(
  path: string,
  body: object,
): Promise<{ status: number; body: Json & { choices: Json[] } }> {
  const reply = await served.api.answer(path, body, ASKING);
  if (reply.kind === 'stream') throw new Error('a stream was not asked for');
  return { status: reply.status, body: reply.body as Json & { choices: Json[] } };
}

async function stream(path: string, body: object): Promise<Json[]> {
  const reply = await served.api.answer(path, { ...body, stream: true }, ASKING);
  if (reply.kind === 'whole') throw new Error(JSON.stringify(reply.body));
  const events = await eventsOf(reply.events);
  expect(events.pop()).toEqual({ data: '[DONE]' });
  return events.map(({ data }) => data as Json);
}

type Choice = {
  readonly index: number;
  readonly text: string;
  readonly finish_reason: string | null;
  readonly delta: { content?: string };
};
const choicesOf = (chunks: readonly Json[]) => chunks.flatMap(({ choices }) => choices as Choice[]);

describe('completions', () => {
  it('are what generate makes, whole as streamed, of texts as of ids', async () => {
    const asked = { prompt: PROMPT, max_tokens: 24, temperature: 0 };
    const { status, body } = await ask('/v1/completions', asked);
    expect(status).toBe(200);
    expect(body).toMatchObject({
      object: 'text_completion',
      model: 'small',
      choices: [{ index: 0, text: reference[0], finish_reason: 'length', logprobs: null }],
    });
    expect(body.usage).toEqual({
      prompt_tokens: expect.any(Number),
      completion_tokens: 24,
      total_tokens: expect.any(Number),
    });
    const chunks = await stream('/v1/completions', asked);
    expect(
      choicesOf(chunks)
        .map(({ text }) => text)
        .join(''),
    ).toBe(reference[0]);
    expect(choicesOf(chunks).at(-1)?.finish_reason).toBe('length');
    expect(choicesOf(chunks).length).toBeGreaterThan(10);
    const ids = await served.model.tokenizer.encode(PROMPT);
    expect((await ask('/v1/completions', { ...asked, prompt: ids })).body.choices).toEqual(body.choices);
  });

  it('are as many as n says of each prompt, each drawn by itself, and the same again with the same seed', async () => {
    const asked = { prompt: [PROMPT, 'To be'], n: 3, max_tokens: 12, temperature: 1.2, seed: 7 };
    const { body } = await ask('/v1/completions', asked);
    const texts = body.choices.map(({ text }) => text);
    expect(body.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(new Set(texts).size).toBe(6);
    const chunks = choicesOf(await stream('/v1/completions', asked));
    const streamed = texts.map((_, at) =>
      chunks
        .filter(({ index }) => index === at)
        .map(({ text }) => text)
        .join(''),
    );
    expect(streamed).toEqual(texts);
    const alone = await ask('/v1/completions', { ...asked, prompt: PROMPT, n: 1 });
    expect(alone.body.choices[0]?.text).toBe(texts[0]);
    expect((await ask('/v1/completions', { ...asked, seed: -7, n: 1 })).body.choices[0]?.text).not.toBe(
      texts[0],
    );
  });

  it('end before a stop string, and begin with the prompt where that is wanted', async () => {
    const stop = reference[0]?.slice(8, 12) as string;
    const asked = { prompt: PROMPT, max_tokens: 24, temperature: 0, stop };
    const { body } = await ask('/v1/completions', { ...asked, echo: true });
    const expected = reference[0]?.slice(0, reference[0].indexOf(stop));
    expect(body.choices[0]).toMatchObject({ text: PROMPT + expected, finish_reason: 'stop' });
    const chunks = choicesOf(await stream('/v1/completions', asked));
    expect(chunks.map(({ text }) => text).join('')).toBe(expected);
  });

  it('tell log-probabilities of each token, and usage at the end of a stream', async () => {
    const asked = { prompt: PROMPT, max_tokens: 6, temperature: 0, logprobs: 0 };
    const { body } = await ask('/v1/completions', asked);
    const told = body.choices[0]?.logprobs as Record<string, number[]>;
    expect(told.tokens?.join('')).toBe(body.choices[0]?.text);
    expect(told.token_logprobs).toHaveLength(6);
    expect(told.token_logprobs?.every((one) => one < 0 && one > -20)).toBe(true);
    const chunks = await stream('/v1/completions', { ...asked, stream_options: { include_usage: true } });
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 6 } });
    expect(chunks.slice(0, -1).every(({ usage }) => usage === null)).toBe(true);
  });
});

describe('chats', () => {
  const messages = [
    {
      role: 'user',
      content: [
        { type: 'text', text: 'Who are ' },
        { type: 'text', text: 'you?' },
      ],
    },
  ];

  it('are answered by the model’s template, whole as streamed', async () => {
    const asked = {
      model: 'also-small',
      messages,
      max_completion_tokens: 24,
      temperature: 0,
      logprobs: true,
    };
    const { body } = await ask('/v1/chat/completions', asked);
    expect(body).toMatchObject({
      object: 'chat.completion',
      model: 'also-small',
      choices: [{ message: { role: 'assistant', content: reference[1] }, finish_reason: 'length' }],
    });
    expect(body.choices[0]).toMatchObject({ logprobs: { content: { length: 24 } } });
    const chunks = await stream('/v1/chat/completions', asked);
    expect(chunks[0]).toMatchObject({
      object: 'chat.completion.chunk',
      choices: [{ delta: { role: 'assistant' } }],
    });
    expect(
      choicesOf(chunks)
        .map(({ delta }) => delta.content ?? '')
        .join(''),
    ).toBe(reference[1]);
    expect(choicesOf(chunks).at(-1)?.finish_reason).toBe('length');
  });
});

describe('how tokens are chosen', () => {
  const asked = { prompt: PROMPT, max_tokens: 12, ignore_eos: true, logprobs: 20 };
  const drawn = async (more: object): Promise<Told & { readonly text: string }> => {
    const { choices } = (await ask('/v1/completions', { ...asked, ...more })).body;
    const [{ text, logprobs }] = choices as unknown as [{ text: string; logprobs: Told }];
    return { text, ...logprobs };
  };
  const idsOf = async (prompt: string) =>
    (await ask('/tokenize', { prompt, add_special_tokens: false })).body.tokens as number[];
  const names = (ids: readonly number[]) =>
    ids.map((id) => served.model.tokenizer.decode([id], { skipSpecialTokens: false }));

  interface ChatToken {
    readonly token: string;
    readonly logprob: number;
    readonly top_logprobs: readonly object[];
  }

  interface Told {
    readonly tokens: readonly string[];
    readonly token_logprobs: readonly number[];
    readonly top_logprobs: readonly Readonly<Record<string, number>>[];
  }

  it('the likeliest in place of each are told, whole as streamed', async () => {
    const likely = await drawn({ temperature: 0 });
    expect(likely.tokens).toHaveLength(12);
    likely.top_logprobs.forEach((top, at) => {
      const all = Object.values(top);
      // Some tokens are written alike.
      expect(all.length).toBeGreaterThan(10);
      expect(Math.max(...all)).toBe(likely.token_logprobs[at]);
      expect(all.reduce((sum, logProb) => sum + Math.exp(logProb), 0)).toBeLessThan(1.0001);
    });
    const hot = await drawn({ temperature: 2, seed: 8 });
    const unlikely = hot.tokens.filter(
      (_, at) => hot.token_logprobs[at] !== Math.max(...Object.values(hot.top_logprobs[at] ?? {})),
    );
    expect(unlikely.length).toBeGreaterThan(2);
    const chat = {
      messages: [{ role: 'user', content: 'Hi' }],
      max_tokens: 9,
      temperature: 0,
      logprobs: true,
    };
    const { body } = await ask('/v1/chat/completions', { ...chat, top_logprobs: 3 });
    const [{ logprobs }] = body.choices as unknown as [{ logprobs: { content: ChatToken[] } }];
    const whole = logprobs.content;
    expect(whole).toHaveLength(9);
    for (const { token, logprob, top_logprobs: top } of whole) {
      expect(top).toHaveLength(3);
      expect(top[0]).toMatchObject({ token, logprob });
    }
    const chunks = await stream('/v1/chat/completions', { ...chat, top_logprobs: 3 });
    const pieces = chunks.flatMap(({ choices }) =>
      (choices as { logprobs: { content: object[] } | null }[]).flatMap(
        ({ logprobs: told }) => told?.content ?? [],
      ),
    );
    expect(pieces).toEqual(whole);
    await expectInResponses(whole);
  });

  /** The same of the same chat as a response, where `include` asks for them. */
  async function expectInResponses(expected: readonly ChatToken[]): Promise<void> {
    const include = ['message.output_text.logprobs'];
    const body = { input: 'Hi', max_output_tokens: 9, temperature: 0, top_logprobs: 3 };
    interface Event {
      readonly type: string;
      readonly logprobs?: readonly ChatToken[];
    }
    const { output } = (await ask('/v1/responses', { ...body, include })).body as unknown as {
      output: { content: { logprobs: object }[] }[];
    };
    expect(output[0]?.content[0]?.logprobs).toEqual(expected);
    const reply = await served.api.answer('/v1/responses', { ...body, include, stream: true }, ASKING);
    if (reply.kind === 'whole') throw new Error(JSON.stringify(reply.body));
    const events = (await eventsOf(reply.events)).map(({ data }) => data as Event);
    const of = (type: string) => events.filter((event) => event.type === `response.output_text.${type}`);
    expect(of('delta').flatMap(({ logprobs }) => logprobs ?? [])).toEqual(expected);
    expect(of('done')[0]?.logprobs).toEqual(expected);
    expect(await ask('/v1/responses', body)).toMatchObject({
      status: 400,
      body: { error: { param: 'top_logprobs' } },
    });
  }

  it('a bias makes a token certain or impossible', async () => {
    const [first = 0] = await idsOf('king');
    const forced = await drawn({ temperature: 1, logit_bias: { [first]: 100 } });
    expect(forced.tokens).toEqual(Array.from({ length: 12 }, () => names([first])[0]));
    const plain = await drawn({ temperature: 0 });
    const ids = await idsOf(plain.text);
    const banned = Object.fromEntries(ids.map((id) => [id, -100]));
    const other = await drawn({ temperature: 0, logit_bias: banned });
    const without = new Set(names(ids));
    expect(other.tokens.filter((token) => without.has(token))).toEqual([]);
  });

  it.each([
    { presence_penalty: 2, frequency_penalty: 0 },
    { presence_penalty: 0, frequency_penalty: 1.5 },
    { presence_penalty: 0.4, frequency_penalty: 0.3 },
  ])('%j: the token is the likeliest once penalties are taken off', async (penalties) => {
    const { tokens, top_logprobs: tops } = await drawn({ ...penalties, temperature: 0, max_tokens: 40 });
    const counts = new Map<string, number>();
    let moved = 0;
    tokens.forEach((token, at) => {
      const top = tops[at] ?? {};
      const left = Object.entries(top).map(([name, logProb]) => {
        const count = counts.get(name) ?? 0;
        const taken = count === 0 ? 0 : penalties.presence_penalty + penalties.frequency_penalty * count;
        return { name, value: logProb - taken };
      });
      const best = left.reduce((a, b) => (b.value > a.value ? b : a));
      expect(Math.abs(best.value - (left.find(({ name }) => name === token)?.value ?? 0))).toBeLessThan(1e-4);
      if ((top[token] ?? 0) < Math.max(...Object.values(top))) moved++;
      counts.set(token, (counts.get(token) ?? 0) + 1);
    });
    expect(moved).toBeGreaterThan(0);
  });

  it('a repetition penalty is that of the model itself', async () => {
    const plain = await drawn({ temperature: 0, max_tokens: 60 });
    const penalized = await drawn({ temperature: 0, max_tokens: 60, repetition_penalty: 1.5 });
    const different = ({ tokens }: Told) => new Set(tokens).size;
    expect(different(penalized)).toBeGreaterThan(different(plain));
  });
});

describe('what is wrong', () => {
  it.each([
    ['/v1/completions', { prompt: '', max_tokens: 0 }, 400, 'max_tokens'],
    ['/v1/completions', { prompt: 'a', n: 1e9 }, 400, 'n'],
    ['/v1/completions', { max_tokens: 1 }, 400, 'prompt'],
    ['/v1/completions', { prompt: 'a', temprature: 1 }, 400, 'temprature'],
    ['/v1/completions', { prompt: [5, 1e6] }, 400, 'prompt'],
    ['/v1/completions', { prompt: 'a', model: 'gpt-4o' }, 404, 'model'],
    ['/v1/completions', { prompt: 'a', suffix: 'b' }, 400, 'suffix'],
    ['/v1/completions', { prompt: 'a', logit_bias: { king: 1 } }, 400, 'logit_bias'],
    ['/v1/completions', { prompt: 'a', logit_bias: { 5: 101 } }, 400, 'logit_bias.5'],
    ['/v1/completions', { prompt: 'a', logprobs: 21 }, 400, 'logprobs'],
    ['/v1/completions', { prompt: 'a', presence_penalty: 3 }, 400, 'presence_penalty'],
    [
      '/v1/chat/completions',
      { messages: [{ role: 'user', content: 'a' }], top_logprobs: 2 },
      400,
      'top_logprobs',
    ],
    ['/v1/responses', { input: 'a', tools: [{ type: 'web_search' }] }, 400, 'tools.0.type'],
    ['/v1/responses', { input: 'a', tools: [{ type: 'function' }] }, 400, 'tools.0.name'],
    ['/v1/responses', { input: 'a', reasoning: { summary: 'detailed' } }, 400, 'reasoning.summary'],
    ['/v1/responses', { input: [{ type: 'function_call_output', call_id: 'a' }] }, 400, 'input.0.output'],
    ['/v1/responses', { input: [{ role: 'user', content: [null] }] }, 400, 'messages.0.content.0'],
    ['/v1/responses', { input: 'a', text: { format: { type: 'json_schema' } } }, 400, 'text.format'],
    ['/v1/completions', [], 400, null],
    ['/v1/chat/completions', { messages: [] }, 400, 'messages'],
    [
      '/v1/chat/completions',
      { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] },
      400,
      'messages.0.content.0',
    ],
    ['/v1/chat/completions', { messages: [{ role: 'king', content: 'a' }] }, 400, 'messages.0.role'],
    ['/v1/embeddings', { input: 'a' }, 400, null],
    ['/v1/nothing', {}, 404, null],
  ])('%s of %j is refused with %i and its field', async (path, body, status, param) => {
    const reply = await ask(path, body);
    expect(reply.status).toBe(status);
    expect(reply.body.error).toMatchObject({
      type: 'invalid_request_error',
      param,
      message: expect.stringMatching(/.{10}/),
    });
  });

  it('a prompt beyond the context is told as clients know it', async () => {
    const reply = await ask('/v1/completions', { prompt: 'a '.repeat(500) });
    expect(reply.body.error).toMatchObject({ code: 'context_length_exceeded' });
    expect(served.faults).toEqual([]);
  });

  it('streams are not for batches', async () => {
    const reply = await served.api.answerWhole('/v1/completions', { prompt: 'a', stream: true }, ASKING);
    expect(reply).toMatchObject({ status: 400, body: { error: { param: 'stream' } } });
  });
});

it('whoever leaves a stream ends its texts', async () => {
  const reply = await served.api.answer(
    '/v1/completions',
    { prompt: PROMPT, n: 4, max_tokens: 200, ignore_eos: true, stream: true },
    ASKING,
  );
  if (reply.kind === 'whole') throw new Error('no stream');
  for await (const _ of reply.events) break;
  await served.engine.whenIdle();
  // All of them would have taken 200 passes.
  expect(served.engine.prefixCounts.promptTokens).toBeGreaterThan(0);
});

it('tokens and back', async () => {
  const { body } = await ask('/tokenize', { prompt: 'To be, or not' });
  expect(body.tokens).toEqual(await served.model.tokenizer.encode('To be, or not'));
  expect((await ask('/detokenize', { tokens: body.tokens, skip_special_tokens: true })).body.prompt).toBe(
    'To be, or not',
  );
  const chat = await ask('/tokenize', { messages: [{ role: 'user', content: 'Hi' }] });
  expect(chat.body.count).toBe((await served.model.tokenizer.encodeBare('u:Hi;a:')).length);
});
