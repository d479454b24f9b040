// `/v1/completions`: texts that go on from prompts.

import { z } from 'zod';
import type { CheckedPrompt } from '../library/prompt.js';
import { constraintFor } from './answer-style.js';
import { badField } from './api-error.js';
import { endpoint } from './endpoint.js';
import { checkModel, isIdList, refuse, requestOf, TEXT_FIELDS, TOP_LOG_PROBS } from './fields.js';
import { GRAMMAR_FIELDS, grammarOf } from './grammar-fields.js';
import { newId, nowSeconds } from './ids.js';
import { completionLogProbs } from './log-probs.js';
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
  const drawn = textSettings(fields, most ?? undefined, wishes, { model, asking });
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
  const told = { model, texts, head, echo: fields.echo === true, logProbs: wishes.logProbs };
  if (!stream) return wholeAnswer(told);
  return { kind: 'stream', events: events(told, streamOptions?.include_usage === true) };
}

function checkWishes(fields: Fields): void {
  refuse(fields, { suffix: 'asks the model to fill a gap, which is not supported: leave it out' });
  const { best_of: bestOf, n, echo, logprobs, stream, stream_options: streamOptions } = fields;
  if (bestOf && bestOf !== (n ?? 1))
    throw badField('best_of', 'best_of other than n is not supported: leave it out');
  if (echo && typeof logprobs === 'number') {
    throw badField(
      'echo',
      'echo with logprobs, which would be those of the prompt, is not supported: leave one out',
    );
  }
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
}

function promptText({ model, echo }: Told, { promptTokens }: Text): string {
  return echo ? model.tokenizer.decode([...promptTokens]) : '';
}

async function wholeAnswer(told: Told): Promise<Reply> {
  const { model, texts, head, logProbs } = told;
  const results = await allResults(texts);
  const choices = results.map((result, at) => ({
    index: at,
    text: promptText(told, texts[at] as Text) + result.text,
    logprobs: logProbs ? completionLogProbs(result, model.tokenizer, 0) : null,
    finish_reason: result.finishReason,
  }));
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
  if (told.echo) for (const text of texts) yield choice(text.index, promptText(told, text), null, null);
  for await (const { text, piece, result } of textEvents(texts)) {
    const { index } = text;
    if (piece) {
      newTokens += piece.tokens.length;
      const logprobs = logProbs ? completionLogProbs(piece, model.tokenizer, lengths[index] as number) : null;
      lengths[index] = (lengths[index] as number) + piece.text.length;
      yield choice(index, piece.text, logprobs, null);
    }
    if (result) yield choice(index, '', null, result.finishReason);
  }
  if (includesUsage) yield { data: { ...head, choices: [], usage: usageOf(texts, newTokens) } };
  yield DONE;
}
