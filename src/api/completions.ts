// `/v1/completions`: texts that go on from prompts.

import { z } from 'zod';
import type { CheckedPrompt } from '../library/prompt.js';
import { decodeLong } from '../text/long-ids.js';
import { constraintFor } from './answer-style.js';
import { badField } from './api-error.js';
import { endpoint } from './endpoint.js';
import { checkModel, isIdList, refuse, requestOf, TEXT_FIELDS, TOP_LOG_PROBS } from './fields.js';
import { GRAMMAR_FIELDS, grammarOf } from './grammar-fields.js';
import { newId, nowSeconds } from './ids.js';
import { type CompletionLogProbs, completionLogProbs, joinLogProbs, promptLogProbs } from './log-probs.js';
import { type Asking, DONE, type Reply, type ServerEvent, whole } from './reply.js';
import type { ServedModel } from './served-model.js';
import { checkIds, textSettings } from './text-wishes.js';
import { allResults, beginTexts, type Text, type TextRequest, textEvents, usageOf } from './texts.js';

const MOST_PROMPTS = 256;
const MOST_CHOICES = 1024;
/** Where a request says nothing, as OpenAI has it. */
const USUAL_NEW_TOKENS = 16;

type GivenPrompt = string | string[] | number[] | number[][];

function isPrompt(value: unknown): value is GivenPrompt {
  if (typeof value === 'string' || isIdList(value)) return true;
  if (!Array.isArray(value) || value.length === 0 || value.length > MOST_PROMPTS) return false;
  return value.every((one) => typeof one === 'string') || value.every(isIdList);
}

/** No union: that of a million ids would be tried as texts, too. */
const PROMPT = z
  .custom<GivenPrompt>(
    isPrompt,
    `give a text or token ids, or a list of up to ${MOST_PROMPTS} texts or lists of token ids`,
  )
  .meta({ type: ['string', 'array'], items: { type: ['string', 'integer', 'array'] }, minItems: 1 });

const SCHEMA = requestOf({
  ...TEXT_FIELDS,
  ...GRAMMAR_FIELDS,
  prompt: PROMPT,
  echo: z.boolean().nullable().optional(),
  logprobs: TOP_LOG_PROBS.nullable().optional(),
  max_tokens: z
    .int()
    .min(0)
    .max(2 ** 31 - 1)
    .nullable()
    .optional()
    .describe('0 goes with echo: the prompt, and with logprobs how likely it is, and nothing new'),
  best_of: z.int().min(1).nullable().optional(),
  suffix: z.string().nullable().optional(),
});

type Fields = z.infer<typeof SCHEMA>;

export const COMPLETIONS = endpoint('Texts that go on from prompts', SCHEMA, answer);

/** What every answer and every event begins with. */
interface Head {
  readonly id: string;
  readonly object: 'text_completion';
  readonly created: number;
  readonly model: string;
}

async function answer(fields: Fields, model: ServedModel, asking: Asking): Promise<Reply> {
  checkModel(fields.model, model.names);
  checkWishes(fields);
  const { n, logprobs, stream, stream_options: streamOptions, max_tokens: most } = fields;
  const samples = n ?? 1;
  const prompts = promptsOf(fields.prompt, model.vocabSize);
  if (prompts.length * samples > MOST_CHOICES) {
    throw badField(
      'n',
      `${prompts.length} prompts with n ${samples} are more than ${MOST_CHOICES} texts: ask for fewer`,
    );
  }
  const wishes = { logProbs: typeof logprobs === 'number', topLogProbs: logprobs ?? 0 };
  const echo = fields.echo === true;
  const drawn = {
    ...textSettings(fields, most ?? undefined, wishes, { model, asking }),
    promptLogProbs: echo && wishes.logProbs,
  };
  const constraint = constraintFor(model.answers, grammarOf(fields));
  const settings = constraint ? { ...drawn, constraint, stopTokens: undefined } : drawn;
  const usualNewTokens = model.defaults.maxNewTokens ?? USUAL_NEW_TOKENS;
  const requests = prompts.map((prompt): TextRequest => ({ prompt, settings, samples, usualNewTokens }));
  const texts = await beginTexts(model, requests, asking.claimTokens);
  const head: Head = {
    id: newId('cmpl-'),
    object: 'text_completion',
    created: nowSeconds(),
    model: fields.model ?? (model.names[0] as string),
  };
  const told = { model, texts, head, echo, ...wishes };
  if (!stream) return wholeAnswer(told);
  return { kind: 'stream', events: events(told, streamOptions?.include_usage === true) };
}

function checkWishes(fields: Fields): void {
  refuse(fields, { suffix: 'asks the model to fill a gap, which is not supported: leave it out' });
  const { best_of: bestOf, n, echo, max_tokens: most, stream, stream_options: streamOptions } = fields;
  if (bestOf && bestOf !== (n ?? 1))
    throw badField('best_of', 'best_of other than n is not supported: leave it out');
  if (most === 0 && !echo)
    throw badField('max_tokens', 'max_tokens is 0, which makes nothing: add echo, or ask for at least 1');
  if (streamOptions && !stream) throw badField('stream_options', 'stream_options is for streams: add stream');
}

function promptsOf(prompt: Fields['prompt'], vocabSize: number): CheckedPrompt[] {
  if (typeof prompt === 'string') return [{ text: prompt }];
  const isOne = typeof prompt[0] === 'number';
  return (isOne ? [prompt as number[]] : (prompt as (string | number[])[])).map((one) => {
    if (typeof one === 'string') return { text: one };
    checkIds(one, vocabSize, 'prompt');
    return { tokens: Int32Array.from(one) };
  });
}

interface Told {
  readonly model: ServedModel;
  readonly texts: readonly Text[];
  readonly head: Head;
  /** The prompt is part of the text. */
  readonly echo: boolean;
  readonly logProbs: boolean;
  readonly topLogProbs: number;
}

/** What the answer has of the prompt. */
interface Echo {
  readonly text: string;
  readonly logprobs: CompletionLogProbs | undefined;
}

/** By prompt, since several texts may have one. Waits until it is known how likely their tokens are, where that is asked for. */
class Echoes {
  readonly #told: Told;
  readonly #of = new Map<Int32Array, Promise<Echo>>();

  constructor(told: Told) {
    this.#told = told;
  }

  of({ promptTokens, promptLikelihoods }: Text): Promise<Echo> {
    const known = this.#of.get(promptTokens) ?? this.#make(promptTokens, promptLikelihoods);
    this.#of.set(promptTokens, known);
    return known;
  }

  async #make(tokens: Int32Array, likelihoods: Text['promptLikelihoods']): Promise<Echo> {
    const { model, echo, topLogProbs } = this.#told;
    const { tokenizer } = model;
    if (!echo) return { text: '', logprobs: undefined };
    const known = await likelihoods;
    return {
      text: await decodeLong(tokenizer, tokens, { skipSpecialTokens: true }),
      logprobs: known && (await promptLogProbs(tokens, known, { topLogProbs, tokenizer })),
    };
  }
}

async function wholeAnswer(told: Told): Promise<Reply> {
  const { model, texts, head, logProbs } = told;
  const results = await allResults(texts);
  const echoes = new Echoes(told);
  const choices: object[] = [];
  for (const [index, result] of results.entries()) {
    const { text, logprobs } = await echoes.of(texts[index] as Text);
    const own = logProbs ? await completionLogProbs(result, model.tokenizer, text.length) : null;
    choices.push({
      index,
      text: text + result.text,
      logprobs: own && logprobs ? joinLogProbs(logprobs, own) : own,
      finish_reason: result.finishReason,
    });
  }
  const newTokens = results.reduce((sum, { tokens }) => sum + tokens.length, 0);
  return whole({ ...head, choices, usage: usageOf(texts, newTokens) });
}

async function* events(told: Told, includesUsage: boolean): AsyncGenerator<ServerEvent, void> {
  const { model, texts, head, logProbs } = told;
  const usage = includesUsage ? { usage: null } : {};
  const choice = (
    index: number,
    text: string,
    logprobs: object | null,
    reason: string | null,
  ): ServerEvent => ({
    data: { ...head, choices: [{ index, text, logprobs, finish_reason: reason }], ...usage },
  });
  const lengths = texts.map(() => 0);
  let newTokens = 0;
  const echoes = new Echoes(told);
  if (told.echo) {
    for (const text of texts) {
      const echo = await echoes.of(text);
      lengths[text.index] = echo.text.length;
      yield choice(text.index, echo.text, echo.logprobs ?? null, null);
    }
  }
  for await (const { text, piece, result } of textEvents(texts)) {
    const { index } = text;
    if (piece) {
      newTokens += piece.tokens.length;
      const from = lengths[index] as number;
      const logprobs = logProbs ? await completionLogProbs(piece, model.tokenizer, from) : null;
      lengths[index] = from + piece.text.length;
      yield choice(index, piece.text, logprobs, null);
    }
    if (result) yield choice(index, '', null, result.finishReason);
  }
  if (includesUsage) yield { data: { ...head, choices: [], usage: usageOf(texts, newTokens) } };
  yield DONE;
}
