// The model that is served, as requests see it: its names, its tokens, its engine, and what it says of drawing.

import type { Engine } from '../engine/engine.js';
import type { ModelSampling } from '../engine/generation-config.js';
import type { OpenedModel } from '../engine/open-model.js';
import { GREEDY, type SamplingSettings } from '../engine/sampler.js';
import type { JsonObject } from '../files/json-file.js';
import { Coder } from '../library/prompt.js';
import type { TextRoom } from '../library/text-request.js';
import type { Tokenizer } from '../text/tokenizer/tokenizer.js';
import type { ServedAnswers } from './answer-style.js';
import { nowSeconds } from './ids.js';
import type { TextObserver } from './reply.js';

export interface ServedModel {
  /** It is listed by the first; any of them may be asked for. */
  readonly names: readonly string[];
  /** When it was opened, in seconds since 1970. */
  readonly created: number;
  readonly room: TextRoom;
  readonly coder: Coder;
  readonly tokenizer: Tokenizer;
  readonly vocabSize: number;
  readonly contextTokens: number;
  readonly defaults: ServedDefaults;
  /** How its answers are read, and grammars; absent: all is text. */
  readonly answers?: ServedAnswers | undefined;
  readonly observer?: TextObserver | undefined;
}

/** What texts are made with that say nothing else. */
export interface ServedDefaults {
  readonly sampling: Omit<SamplingSettings, 'seed'>;
  readonly maxNewTokens: number | undefined;
}

/** Draws from the whole vocabulary where no file says anything, as OpenAI's and vLLM's servers do. */
const DRAWN_FREELY = { ...GREEDY, temperature: 1 };

/**
 * As vLLM takes generation_config.json: the values that it has, whatever `do_sample` says.
 * @param own the same file as transformers would take it, all of whose values have been checked
 */
export function servedDefaults(config: JsonObject, own: ModelSampling | undefined): ServedDefaults {
  const value = (name: string, otherwise: number) => {
    const written = config[name];
    return own && typeof written === 'number' ? written : otherwise;
  };
  return {
    sampling: {
      temperature: value('temperature', DRAWN_FREELY.temperature),
      topK: value('top_k', DRAWN_FREELY.topK),
      topP: value('top_p', DRAWN_FREELY.topP),
      minP: value('min_p', DRAWN_FREELY.minP),
      repetitionPenalty: value('repetition_penalty', DRAWN_FREELY.repetitionPenalty),
    },
    maxNewTokens: own?.maxNewTokens,
  };
}

export interface ServedParts {
  readonly opened: OpenedModel;
  readonly engine: Pick<Engine, 'submit'>;
  readonly tokenizer: Tokenizer;
  readonly names: readonly string[];
  /** Tokens of the longest text, its prompt among them. */
  readonly contextTokens: number;
  /** Undefined: its file is to say nothing. */
  readonly own: ModelSampling | undefined;
  /** Absent: answers are text, and obey no format. */
  readonly answers?: ServedAnswers | undefined;
}

export function servedModel({
  opened,
  engine,
  tokenizer,
  names,
  contextTokens,
  own,
  answers,
}: ServedParts): ServedModel {
  const { checkpoint, model } = opened;
  const size = model.vocabSize;
  const coder = new Coder(checkpoint.folder, { tokenizer, startToken: tokenizer.bosTokenId, size });
  const endTokens = new Set(tokenizer.eosTokenIds);
  return {
    names,
    created: nowSeconds(),
    room: { engine, coder, contextTokens, endTokens, own: undefined },
    coder,
    tokenizer,
    vocabSize: size,
    contextTokens,
    defaults: servedDefaults(checkpoint.generationConfig, own),
    answers,
  };
}
