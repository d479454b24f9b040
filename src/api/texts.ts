// The texts of one request on their way: begun together, told as they come, ended together.

import { OperatingError } from '../../offload/index.js';
import type { TokenLikelihood } from '../engine/request.js';
import { Turns } from '../files/turns.js';
import type { TextSettings } from '../library/generate-options.js';
import { TextGeneration, type TokenSource } from '../library/generation.js';
import type { CheckedPrompt } from '../library/prompt.js';
import { submitText } from '../library/text-request.js';
import type { GenerationResult, Piece } from '../library/types.js';
import type { Asking, TextObserver } from './reply.js';
import type { ServedModel } from './served-model.js';

export interface Text {
  /** Which of the request's choices it is. */
  readonly index: number;
  readonly generation: TextGeneration;
  readonly promptTokens: Int32Array;
  /** Where they were asked for: of the prompt's tokens from the second on. */
  readonly promptLikelihoods?: Promise<readonly TokenLikelihood[]> | undefined;
}

export interface TextRequest {
  readonly prompt: CheckedPrompt;
  readonly settings: TextSettings;
  /** How many texts of this prompt. */
  readonly samples: number;
  /** How many they are at most where nobody says it and the context has room. */
  readonly usualNewTokens: number;
}

export interface TextEvent {
  readonly text: Text;
  /** Undefined: the text has ended with `result`. */
  readonly piece: Piece | undefined;
  readonly result: GenerationResult | undefined;
}

/** Numbers texts in sentences of the log. */
let begun = 0;

/** Submits all of them at once. Rejects with what is wrong with the prompts, and then none of them is made. */
export async function beginTexts(
  model: ServedModel,
  requests: readonly TextRequest[],
  claimTokens: Asking['claimTokens'],
): Promise<Text[]> {
  const prompts = await encoded(model, requests);
  const lengths = requests.map(({ settings, usualNewTokens }, at) => {
    const room = Math.max(1, model.contextTokens - lengthOf(prompts[at]));
    return settings.maxNewTokens ?? Math.min(room, usualNewTokens);
  });
  const claims = requests.map(({ samples }, at) => samples * (lengthOf(prompts[at]) + (lengths[at] ?? 0)));
  claimTokens?.(claims.reduce((sum, claim) => sum + claim, 0));
  const texts: Text[] = [];
  const turns = new Turns();
  try {
    for (const [at, { settings, samples }] of requests.entries()) {
      const promptTokens = prompts[at] as Int32Array;
      const length = lengths[at];
      let promptLikelihoods: Text['promptLikelihoods'];
      for (let sample = 0; sample < samples; sample++) {
        if (turns.isOver) await turns.next();
        // The texts of a prompt have it in common.
        const asksOfPrompt = settings.promptLogProbs === true && sample === 0;
        const promptLogProbs = asksOfPrompt && promptTokens.length > 1;
        const own = { ...settings, maxNewTokens: length, sample, promptLogProbs };
        const isMade = length !== 0 || promptLogProbs;
        const source = isMade
          ? await submitText(begun++, promptTokens, own, model.room)
          : nothing(promptTokens);
        if (asksOfPrompt) {
          promptLikelihoods = likelihoodsOf(source);
          // Whoever waits for the text is told.
          promptLikelihoods.catch(() => undefined);
        }
        const watched = isMade ? observed(source, model.observer) : source;
        const generation = new TextGeneration(own, async () => watched);
        texts.push({ index: texts.length, generation, promptTokens, promptLikelihoods });
      }
    }
  } catch (error) {
    cancelTexts(texts);
    throw error;
  }
  return texts;
}

/** Texts that come back from the tokenizer at once hold up everybody else together. */
const ENCODED_AT_ONCE = 8;

async function encoded(model: ServedModel, requests: readonly TextRequest[]): Promise<Int32Array[]> {
  const prompts: Int32Array[] = [];
  for (let at = 0; at < requests.length; at += ENCODED_AT_ONCE) {
    const some = requests
      .slice(at, at + ENCODED_AT_ONCE)
      .map(({ prompt, settings }) =>
        model.coder.encode(prompt, settings.signal as AbortSignal, model.contextTokens),
      );
    prompts.push(...(await Promise.all(some)));
  }
  return prompts;
}

/** The source of a text that is to have no token. */
function nothing({ length }: Int32Array): TokenSource {
  return {
    tokens: (async function* () {})(),
    finished: Promise.resolve('length'),
    cancel: () => undefined,
    push: () => '',
    end: () => '',
    promptTokens: length,
    seed: undefined,
  };
}

async function likelihoodsOf(source: TokenSource): Promise<readonly TokenLikelihood[]> {
  if (source.promptTokens < 2) return [];
  const known = await source.promptLikelihoods?.();
  if (known) return known;
  throw closed();
}

function lengthOf(prompt: Int32Array | undefined): number {
  return prompt?.length ?? 0;
}

function observed(source: TokenSource, observer: TextObserver | undefined): TokenSource {
  if (!observer) return source;
  const startMs = performance.now();
  let tokens = 0;
  const push = (token: number) => {
    if (++tokens === 1) observer.firstToken((performance.now() - startMs) / 1e3);
    observer.newToken();
    return source.push(token);
  };
  const end = () => {
    observer.ended(source.promptTokens, tokens);
    return source.end();
  };
  return { ...source, push, end };
}

export function cancelTexts(texts: readonly Text[]): void {
  for (const { generation } of texts) generation.cancel();
}

/** All pieces and ends, in the order in which they come. Throws what one of the texts ends with; then none goes on. */
export async function* textEvents(texts: readonly Text[]): AsyncGenerator<TextEvent, void> {
  const waiting: TextEvent[] = [];
  let failure: { readonly error: unknown } | undefined;
  let open = texts.length;
  let wake: () => void = () => undefined;
  const tell = (text: Text) => async () => {
    for await (const piece of text.generation) {
      waiting.push({ text, piece, result: undefined });
      wake();
    }
    waiting.push({ text, piece: undefined, result: ended(await text.generation.result) });
  };
  for (const text of texts) {
    tell(text)()
      .catch((error: unknown) => {
        failure ??= { error };
      })
      .finally(() => {
        open--;
        wake();
      });
  }
  try {
    while (true) {
      for (let next = waiting.shift(); next; next = waiting.shift()) yield next;
      if (failure) throw failure.error;
      if (open === 0) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  } finally {
    cancelTexts(texts);
  }
}

/** Waits for all. Rejects with what one of them ends with; then none goes on. */
export async function allResults(texts: readonly Text[]): Promise<GenerationResult[]> {
  try {
    return await Promise.all(texts.map(async ({ generation }) => ended(await generation.result)));
  } finally {
    cancelTexts(texts);
  }
}

/** Throws for a text that has ended neither by itself nor by its request: the engine is being closed. */
function ended(result: GenerationResult): GenerationResult {
  if (result.finishReason !== 'cancelled') return result;
  throw closed();
}

function closed(): OperatingError {
  return new OperatingError('CLOSED', 'the engine was closed before this was done');
}

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

/** The prompt of several choices counts once. */
export function usageOf(texts: readonly Text[], newTokens: number): Usage {
  const prompts = new Set(texts.map(({ promptTokens }) => promptTokens));
  const given = [...prompts].reduce((sum, { length }) => sum + length, 0);
  return { prompt_tokens: given, completion_tokens: newTokens, total_tokens: given + newTokens };
}
