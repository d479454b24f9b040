// How tokens are drawn and where texts end, from the options of the commands that generate.

import { randomInt } from 'node:crypto';
import type { OperatingError } from '../../../offload/index.js';
import { checkSampling, GREEDY, type SamplingSettings } from '../../engine/sampler.js';
import { badOption, type OptionReader } from './option-reader.js';

const MOST_SAMPLES = 65_536;

export interface SamplingOptions {
  readonly sampling: SamplingSettings;
  /** Also 0 is one: it says that other settings of drawing are meant to be idle. */
  readonly temperatureGiven: boolean;
  /** An option that has no effect unless a prompt has a temperature of its own. */
  readonly idle: string | undefined;
  /** False: the seed was drawn, and another would do as well. */
  readonly seedGiven: boolean;
  /** Undefined when not given, which is one. */
  readonly samples: number | undefined;
  readonly stopStrings: readonly string[];
}

export function idleOption(name: string): OperatingError {
  return badOption(`--${name} is for drawing tokens: add --temperature, such as --temperature 0.8`);
}

/** Throws BAD_OPTION. */
export function readSamplingOptions(options: OptionReader): SamplingOptions {
  const temperature = options.number('temperature');
  const idle = ['top_k', 'top_p', 'min_p', 'seed', 'num_samples'].find((name) => options.has(name));
  // Lines of prompts may have a temperature of their own.
  if (temperature === undefined && idle && !options.has('prompts_file')) throw idleOption(idle);
  const settings: SamplingSettings = {
    temperature: temperature ?? GREEDY.temperature,
    topK: options.number('top_k') ?? GREEDY.topK,
    topP: options.number('top_p') ?? GREEDY.topP,
    minP: options.number('min_p') ?? GREEDY.minP,
    repetitionPenalty: options.number('repetition_penalty') ?? GREEDY.repetitionPenalty,
    seed: options.number('seed') ?? randomInt(2 ** 48 - 1),
  };
  checkSampling(settings);
  const stopStrings = options.list('stop');
  if (stopStrings.includes('')) throw badOption('--stop is empty: give the text to stop before');
  return {
    sampling: settings,
    temperatureGiven: temperature !== undefined,
    idle: temperature === undefined ? idle : undefined,
    seedGiven: options.has('seed'),
    samples: options.count('num_samples', 1, MOST_SAMPLES),
    stopStrings,
  };
}
