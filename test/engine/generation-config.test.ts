// A model's own settings become sampling as transformers would take them, and nothing of them is passed over in silence.

import { describe, expect, it } from 'vitest';
import { OperatingError } from '../../offload/index.js';
import { readGenerationConfig } from '../../src/engine/generation-config.js';
import { GREEDY } from '../../src/engine/sampler.js';
import type { JsonObject } from '../../src/files/json-file.js';

const read = (config: JsonObject, context?: number) => readGenerationConfig(config, 'g.json', context);
const { seed: _, ...LIKELIEST } = GREEDY;

describe('sampling', () => {
  it.each<[JsonObject, object]>([
    // transformers draws only where do_sample says so, whatever else is there, and takes 50 tokens where top_k is absent.
    [{}, { ...LIKELIEST, topK: 50 }],
    [
      { temperature: 0.6, top_p: 0.9 },
      { ...LIKELIEST, topK: 50, topP: 0.9 },
    ],
    [
      { do_sample: false, temperature: 0.6, top_k: 7 },
      { ...LIKELIEST, topK: 7 },
    ],
    [{ do_sample: true }, { ...LIKELIEST, temperature: 1, topK: 50 }],
    [
      { do_sample: true, temperature: null, top_k: null },
      { ...LIKELIEST, temperature: 1, topK: 50 },
    ],
    [
      { do_sample: true, temperature: 0.6, top_k: 0, top_p: 0.9, min_p: 0.1, repetition_penalty: 1.1 },
      { temperature: 0.6, topK: 0, topP: 0.9, minP: 0.1, repetitionPenalty: 1.1 },
    ],
    [{ repetition_penalty: 1.2 }, { ...LIKELIEST, topK: 50, repetitionPenalty: 1.2 }],
  ])('%j', (config, sampling) => {
    expect(read(config).sampling).toEqual(sampling);
    expect(read(config).warnings).toEqual([]);
  });

  it('lengths and stop strings', () => {
    expect(read({ max_new_tokens: 7, stop_strings: 'a' })).toMatchObject({
      maxNewTokens: 7,
      stopStrings: ['a'],
    });
    expect(read({ stop_strings: ['a', 'b'] }).stopStrings).toEqual(['a', 'b']);
    expect(read({})).toMatchObject({ maxNewTokens: undefined, stopStrings: [] });
  });
});

describe('what is not applied is named', () => {
  it.each<[JsonObject, string]>([
    [{ num_beams: 4 }, 'num_beams is 4'],
    [{ no_repeat_ngram_size: 3 }, 'no_repeat_ngram_size is 3'],
    [{ bad_words_ids: [[3]] }, 'bad_words_ids is [[3]]'],
    [{ suppress_tokens: [1] }, 'suppress_tokens is [1]'],
    [{ typical_p: 0.9 }, 'typical_p is 0.9'],
    [{ min_new_tokens: 5 }, 'min_new_tokens is 5'],
    [{ guidance_scale: 1.5 }, 'guidance_scale is 1.5'],
    [{ num_return_sequences: 2 }, 'num_return_sequences is 2'],
    [{ encoder_repetition_penalty: 1.3 }, 'encoder_repetition_penalty is 1.3'],
    [{ sampler_of_tomorrow: 'x' }, 'sampler_of_tomorrow is "x"'],
    [{ max_length: 20 }, 'max_length is 20'],
  ])('%j', (config, sentence) => {
    const { warnings } = read(config, 100);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain(`g.json: ${sentence}, which is not applied`);
  });

  it('and what changes no text is not', () => {
    const idle = {
      ...{ bos_token_id: 1, eos_token_id: [2, 3], pad_token_id: 0, transformers_version: '5.1.0' },
      ...{ num_beams: 1, typical_p: 1.0, no_repeat_ngram_size: 0, bad_words_ids: null, suppress_tokens: [] },
      ...{ use_cache: true, cache_implementation: 'hybrid', early_stopping: true, length_penalty: 0.8 },
      ...{ max_length: 4096, guidance_scale: null, sequence_bias: {} },
    };
    expect(read(idle, 2048).warnings).toEqual([]);
    expect(read({ max_length: 20, max_new_tokens: 5 }, 2048).warnings).toEqual([]);
  });
});

describe('what cannot be meant is refused', () => {
  it.each<[JsonObject, string]>([
    [{ do_sample: 'yes' }, 'do_sample is "yes": write true or false'],
    [{ do_sample: 1 }, 'do_sample is 1: write true or false'],
    [{ temperature: '0.6' }, 'temperature is "0.6": write a number'],
    [{ temperature: -1 }, 'temperature is -1: write a number from 0'],
    [{ do_sample: true, top_p: 0 }, 'top_p is 0: write a number above 0'],
    [{ top_k: -1 }, 'top_k is -1: write a whole number from 0'],
    [{ top_k: 1.5 }, 'top_k is 1.5'],
    [{ min_p: [0.1] }, 'min_p is [0.1]: write a number'],
    [{ repetition_penalty: 0 }, 'repetition_penalty is 0'],
    [{ temperature: Number.NaN }, 'temperature is NaN'],
    [{ max_new_tokens: 0 }, 'max_new_tokens is 0: write a whole number from 1 on'],
    [{ max_length: 'long' }, 'max_length is "long": write a number'],
    [{ stop_strings: [''] }, 'stop_strings is [""]: write strings that are not empty'],
    [{ stop_strings: 5 }, 'stop_strings is 5'],
  ])('%j', (config, sentence) => {
    expect(() => read(config)).toThrow(OperatingError);
    expect(() => read(config)).toThrow(`g.json: ${sentence}`);
  });
});
