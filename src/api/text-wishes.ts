// What completions, chats and responses have in common: how texts are drawn, how long they become, and where they end.

import { randomInt } from 'node:crypto';
import { isGreedy, type SamplingSettings } from '../engine/sampler.js';
import type { TextSettings } from '../library/generate-options.js';
import { badField } from './api-error.js';
import type { Asking } from './reply.js';
import type { ServedModel } from './served-model.js';

type Given<T> = T | null | undefined;

/** As the fields of requests have them. */
export interface TextFields {
  readonly temperature?: Given<number>;
  readonly top_p?: Given<number>;
  readonly top_k?: Given<number>;
  readonly min_p?: Given<number>;
  readonly presence_penalty?: Given<number>;
  readonly frequency_penalty?: Given<number>;
  readonly repetition_penalty?: Given<number>;
  readonly logit_bias?: Given<Readonly<Record<string, number>>>;
  readonly seed?: Given<number>;
  readonly stop?: Given<string | readonly string[]>;
  readonly stop_token_ids?: Given<readonly number[]>;
  readonly ignore_eos?: Given<boolean>;
}

export interface LogProbWishes {
  /** Each token's log-probability is told. */
  readonly logProbs: boolean;
  /** And those of so many of the likeliest tokens in its place. */
  readonly topLogProbs: number;
}

const NO_TOKENS: ReadonlySet<number> = new Set();

/** Throws an ApiError. @param maxNewTokens undefined: as many as there is room for */
export function textSettings(
  fields: TextFields,
  maxNewTokens: number | undefined,
  { logProbs, topLogProbs }: LogProbWishes,
  { model, asking }: { readonly model: ServedModel; readonly asking: Asking },
): TextSettings {
  const sampling = samplingOf(fields, model);
  const { stop, stop_token_ids: ids, ignore_eos: ignoresEnd } = fields;
  if (ids) checkIds(ids, model.vocabSize, 'stop_token_ids');
  return {
    maxNewTokens,
    sampling: isGreedy(sampling) ? undefined : sampling,
    stopStrings: typeof stop === 'string' ? [stop] : (stop ?? []),
    stopTokens: ids ? new Set(ids) : ignoresEnd ? NO_TOKENS : undefined,
    system: undefined,
    logProbs,
    topLogProbs,
    turn: asking.turn,
    signal: asking.signal,
  };
}

function samplingOf(fields: TextFields, { defaults, vocabSize }: ServedModel): SamplingSettings {
  const own = defaults.sampling;
  const topK = fields.top_k ?? own.topK;
  return {
    temperature: fields.temperature ?? own.temperature,
    topK: topK === -1 ? 0 : topK,
    topP: fields.top_p ?? own.topP,
    minP: fields.min_p ?? own.minP,
    repetitionPenalty: fields.repetition_penalty ?? own.repetitionPenalty,
    presencePenalty: fields.presence_penalty ?? 0,
    frequencyPenalty: fields.frequency_penalty ?? 0,
    biases: biasesOf(fields.logit_bias ?? {}, vocabSize),
    seed: seedOf(fields.seed),
  };
}

/** Clients also send seeds below 0; each is one of its own. */
function seedOf(seed: Given<number>): number {
  if (seed === undefined || seed === null) return randomInt(2 ** 48 - 1);
  return seed >= 0 ? seed : Number.MAX_SAFE_INTEGER + seed;
}

function biasesOf(given: Readonly<Record<string, number>>, vocabSize: number): ReadonlyMap<number, number> {
  const biases = new Map<number, number>();
  for (const [name, bias] of Object.entries(given)) {
    const token = /^\d{1,10}$/.test(name) ? Number(name) : Number.NaN;
    checkIds([token], vocabSize, 'logit_bias');
    biases.set(token, bias);
  }
  return biases;
}

/** Throws an ApiError for an id that the vocabulary does not have. */
export function checkIds(ids: readonly number[], vocabSize: number, param: string): void {
  const wrong = ids.find((id) => !(id >= 0 && id < vocabSize));
  if (wrong === undefined) return;
  throw badField(
    param,
    `${param} has an id that is none: give whole numbers below ${vocabSize}`,
    'invalid_value',
  );
}
