// A model's own way of choosing tokens, as its generation_config.json says it and transformers would follow it; what of it
// cannot be followed is named.

import { OperatingError } from '../../offload/index.js';
import { type JsonObject, show } from '../files/json-file.js';
import { GREEDY, type SamplingSettings, unusableSetting } from './sampler.js';

export interface ModelSampling {
  /** All but the seed, which no model has. */
  readonly sampling: Omit<SamplingSettings, 'seed'>;
  /** New tokens of a text. */
  readonly maxNewTokens: number | undefined;
  readonly stopStrings: readonly string[];
  /** A sentence for each value that would change texts and is not applied. */
  readonly warnings: readonly string[];
}

/** What transformers takes where tokens are drawn and the file does not say. */
const DRAWN_BY_DEFAULT = { temperature: 1, topK: 50 };

/** How texts are computed, what is returned beside them, and what others read: not what the texts are. */
const SAY_NOTHING_OF_TEXTS: ReadonlySet<string> = new Set(
  (
    'bos_token_id eos_token_id pad_token_id decoder_start_token_id transformers_version _from_model_config _commit_hash ' +
    'use_cache cache_implementation cache_config return_legacy_cache prefill_chunk_size low_memory compile_config ' +
    'disable_compile output_attentions output_hidden_states output_scores output_logits return_dict_in_generate ' +
    'is_assistant num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold ' +
    'prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit assistant_lookbehind target_lookbehind ' +
    // Settings of beams, which `num_beams` asks for.
    'early_stopping length_penalty renormalize_logits'
  ).split(' '),
);

/** What these must be to change nothing; null always does. */
const IDLE_VALUES: Readonly<Record<string, readonly unknown[]>> = {
  num_beams: [1],
  num_beam_groups: [1],
  num_return_sequences: [1],
  min_length: [0],
  min_new_tokens: [0],
  typical_p: [1],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  diversity_penalty: [0],
  penalty_alpha: [0],
  encoder_repetition_penalty: [1],
  no_repeat_ngram_size: [0],
  encoder_no_repeat_ngram_size: [0],
  guidance_scale: [1],
  token_healing: [false],
  remove_invalid_values: [false],
};

const APPLIED: ReadonlySet<string> = new Set(
  'do_sample temperature top_k top_p min_p repetition_penalty max_new_tokens max_length stop_strings'.split(
    ' ',
  ),
);

/**
 * @param path of the file, for messages
 * @param maxContextTokens of the model, if it has a limit
 * Throws BAD_CONFIG for a value that cannot be meant.
 */
export function readGenerationConfig(
  config: JsonObject,
  path: string,
  maxContextTokens: number | undefined,
): ModelSampling {
  const file = new Values(config, path);
  const draws = file.flag('do_sample') ?? false;
  const drawn = draws ? DRAWN_BY_DEFAULT : { temperature: GREEDY.temperature, topK: DRAWN_BY_DEFAULT.topK };
  const temperature = file.number('temperature');
  const sampling = {
    temperature: draws ? (temperature ?? drawn.temperature) : drawn.temperature,
    topK: file.number('top_k') ?? drawn.topK,
    topP: file.number('top_p') ?? GREEDY.topP,
    minP: file.number('min_p') ?? GREEDY.minP,
    repetitionPenalty: file.number('repetition_penalty') ?? GREEDY.repetitionPenalty,
  };
  const asWritten = { ...sampling, temperature: temperature ?? sampling.temperature };
  const wrong = unusableSetting({ ...asWritten, seed: GREEDY.seed });
  if (wrong) throw file.unusable(wrong.option, wrong.wanted);
  return {
    sampling,
    maxNewTokens: file.count('max_new_tokens'),
    stopStrings: file.strings('stop_strings'),
    warnings: [...file.lengthWarnings(maxContextTokens), ...notApplied(config, path)],
  };
}

function notApplied(config: JsonObject, path: string): string[] {
  return Object.entries(config).flatMap(([key, value]) => {
    if (APPLIED.has(key) || SAY_NOTHING_OF_TEXTS.has(key)) return [];
    if (value === null || IDLE_VALUES[key]?.includes(value)) return [];
    // Nothing of a list or of an object is nothing.
    if (typeof value === 'object' && Object.keys(value).length === 0) return [];
    return [
      `${path}: ${key} is ${show(value)}, which is not applied: texts may be others than the model's own`,
    ];
  });
}

/** The values of the file, with one sentence for each that cannot be meant. */
class Values {
  readonly #config: JsonObject;
  readonly #path: string;

  constructor(config: JsonObject, path: string) {
    this.#config = config;
    this.#path = path;
  }

  unusable(key: string, wanted: string): OperatingError {
    return new OperatingError(
      'BAD_CONFIG',
      `${this.#path}: ${key} is ${show(this.#config[key])}: write ${wanted}, or leave the file out with ` +
        '--generation_config=false',
    );
  }

  number(key: string): number | undefined {
    const value = this.#value(key);
    if (value === undefined || typeof value === 'number') return value;
    throw this.unusable(key, 'a number');
  }

  flag(key: string): boolean | undefined {
    const value = this.#value(key);
    if (value === undefined || typeof value === 'boolean') return value;
    throw this.unusable(key, 'true or false');
  }

  count(key: string): number | undefined {
    const value = this.number(key);
    if (value === undefined || (Number.isSafeInteger(value) && value >= 1 && value < 2 ** 31)) return value;
    throw this.unusable(key, 'a whole number from 1 on');
  }

  strings(key: string): readonly string[] {
    const value = this.#value(key);
    const list: readonly unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value];
    return list.map((text) => {
      if (typeof text === 'string' && text !== '') return text;
      throw this.unusable(key, 'strings that are not empty');
    });
  }

  /** A length of prompt and text together bounds nothing that the model's context does not. */
  lengthWarnings(maxContextTokens: number | undefined): string[] {
    const most = this.count('max_length');
    if (most === undefined || this.#value('max_new_tokens') !== undefined) return [];
    if (maxContextTokens !== undefined && most >= maxContextTokens) return [];
    return [
      `${this.#path}: max_length is ${most}, which is not applied: --max_new_tokens says how long texts become`,
    ];
  }

  /** Null is what is not said. */
  #value(key: string): unknown {
    return this.#config[key] ?? undefined;
  }
}
