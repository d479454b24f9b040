// One text as a request of tokens: its limits, and how tokens become text on their way back.

import { counted, OperatingError, present } from '../../offload/index.js';
import type { ModelSampling } from '../engine/generation-config.js';
import type { GenerationRequest, GenerationResult } from '../engine/request.js';
import type { Submission } from '../engine/submission.js';
import { ShownTokensDecoder } from '../text/shown-tokens.js';
import { promptEnd, StoppingDecoder } from '../text/stop-strings.js';
import { IncrementalDecoder } from '../text/text-decoder.js';
import type { Tokenizer } from '../text/tokenizer/tokenizer.js';
import type { TextSettings } from './generate-options.js';
import type { TokenSource } from './generation.js';
import type { Coder } from './prompt.js';

const DEFAULT_NEW_TOKENS = 256;
const NO_TOKENS: ReadonlySet<number> = new Set();

/** What an engine does with one request beside all others. */
export interface TokenEngine {
  submit(
    request: GenerationRequest,
  ): Pick<Submission, 'tokens' | 'result' | 'cancel'> & Partial<Pick<Submission, 'promptLikelihoods'>>;
}

export interface TextRoom {
  readonly engine: TokenEngine;
  readonly coder: Coder;
  readonly contextTokens: number;
  /** Those that end a text unless it names others. */
  readonly endTokens: ReadonlySet<number>;
  /** The model's own settings, if they count where a text says nothing. */
  readonly own: ModelSampling | undefined;
}

/** @param index says in sentences which text it is. Throws PROMPT_TOO_LONG; BAD_TOKENIZER where stop strings are given and there is no tokenizer. */
export async function submitText(
  index: number,
  promptTokens: Int32Array,
  settings: TextSettings,
  { engine, coder, contextTokens, endTokens, own }: TextRoom,
): Promise<TokenSource> {
  const usual = own?.maxNewTokens ?? DEFAULT_NEW_TOKENS;
  const maxNewTokens = newTokensFor(promptTokens.length, settings.maxNewTokens, usual, contextTokens);
  const { stopStrings, stopTokens = endTokens, sampling, sample, turn } = settings;
  const { logProbs, topLogProbs, promptLogProbs } = settings;
  const tokenizer = stopStrings.length > 0 ? await coder.tokenizer() : coder.optionalTokenizer;
  const decoder = tokenizer
    ? new StoppingDecoder(
        decoderOf(tokenizer, promptTokens, settings.shownTokens),
        stopStrings,
        promptEnd(tokenizer, promptTokens, stopStrings),
      )
    : undefined;
  const constraint = await settings.constraint?.();
  /** What tokens say that the engine has been told of, and that have not come back yet. */
  const said: string[] = [];
  const submission = engine.submit({
    index,
    promptTokens,
    maxNewTokens,
    stopTokens: stopTokens.size > 0 ? stopTokens : NO_TOKENS,
    // With a seed of its own, a text does not depend on what else was asked for.
    randomIndex: 0,
    ...(sampling ? { sampling } : {}),
    ...(logProbs ? { logProbs } : {}),
    ...(topLogProbs ? { topLogProbs } : {}),
    ...(promptLogProbs ? { promptLogProbs } : {}),
    ...(sample === undefined ? {} : { sample }),
    ...(turn ? { turn } : {}),
    ...(constraint ? { constraint } : {}),
    ...(decoder && stopStrings.length > 0
      ? {
          stopsAfter: (token: number) => {
            said.push(decoder.push(token));
            return decoder.stopped;
          },
        }
      : {}),
  });
  return {
    tokens: submission.tokens,
    promptLikelihoods: async () => submission.promptLikelihoods?.(),
    finished: submission.result.then(reasonOf),
    cancel: () => submission.cancel(),
    push: (token) =>
      stopStrings.length > 0 ? present(said.shift(), 'text of a token') : decoder?.push(token),
    end: () => decoder?.end() ?? '',
    promptTokens: promptTokens.length,
    seed: sampling && sampling.temperature > 0 ? sampling.seed : undefined,
  };
}

function reasonOf({ finishReason, problem }: GenerationResult): 'stop' | 'length' | 'cancelled' {
  if (finishReason === 'error') throw present(problem, 'problem');
  return finishReason;
}

/** @param usual how many they are at most where nobody says it, and as far as there is room */
function newTokensFor(
  promptTokens: number,
  wanted: number | undefined,
  usual: number,
  contextTokens: number,
): number {
  const room = contextTokens - promptTokens;
  if (room >= (wanted ?? 1)) return wanted ?? Math.min(room, usual);
  throw new OperatingError(
    'PROMPT_TOO_LONG',
    `the prompt has ${counted(promptTokens, 'token')} and is to get ${wanted ?? 'at least 1'} more, but there is room for ` +
      `${contextTokens}: shorten the prompt, lower maxNewTokens, or open the model with more contextTokens`,
  );
}

function decoderOf(tokenizer: Tokenizer, promptTokens: Int32Array, shown: TextSettings['shownTokens']) {
  const decoder = new IncrementalDecoder(tokenizer, promptTokens);
  return shown && shown.size > 0 ? new ShownTokensDecoder(decoder, shown) : decoder;
}
