// How tokens are drawn and where texts end, from the options of the commands that generate.

import { randomInt } from 'node:crypto';
import type { OperatingError } from '../../../offload/index.js';
import { checkSampling, GREEDY, type SamplingSettings } from '../../engine/sampler.js';
import { badOption, type OptionReader } from './option-reader.js';

const MOST_SAMPLES = 65_536;

export interface SamplingOptions {
  /** With `given`, and what nobody has said. */
  readonly sampling: SamplingSettings;
  /** What the command line says of it. */
  readonly given: Partial<SamplingSettings>;
  /** The model's own settings count where the command line is silent. */
  readonly generationConfig: boolean;
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

/** Settings of drawing by the names that options, and lines of prompts, have for them. */
export const SAMPLING_NAMES = {
  temperature: 'temperature',
  top_k: 'topK',
  top_p: 'topP',
  min_p: 'minP',
  repetition_penalty: 'repetitionPenalty',
  seed: 'seed',
} as const satisfies Readonly<Record<string, keyof SamplingSettings>>;

/** Those that change nothing unless tokens are drawn. */
export const DRAWING_NAMES = ['top_k', 'top_p', 'min_p', 'seed'] as const;

function givenSettings(options: OptionReader): Partial<SamplingSettings> {
  const numbers = Object.entries(SAMPLING_NAMES).map(
    ([name, setting]) => [setting, options.number(name)] as const,
  );
  return Object.fromEntries(numbers.filter(([, value]) => value !== undefined));
}

export function idleOption(name: string): OperatingError {
  return badOption(`--${name} is for drawing tokens: add --temperature, such as --temperature 0.8`);
}

/**
 * Throws BAD_OPTION.
 * @param modelDecides where nothing is said of --generation_config
 */
export function readSamplingOptions(options: OptionReader, modelDecides = false): SamplingOptions {
  const temperature = options.number('temperature');
  const idle = [...DRAWING_NAMES, 'num_samples'].find((name) => options.has(name));
  const generationConfig = options.switch('generation_config') ?? modelDecides;
  // Lines of prompts may have a temperature of their own, and so may the model.
  if (temperature === undefined && idle && !options.has('prompts_file') && !generationConfig) {
    throw idleOption(idle);
  }
  const given = givenSettings(options);
  const settings: SamplingSettings = { ...GREEDY, seed: randomInt(2 ** 48 - 1), ...given };
  checkSampling(settings);
  const stopStrings = options.list('stop');
  if (stopStrings.includes('')) throw badOption('--stop is empty: give the text to stop before');
  return {
    sampling: settings,
    given,
    generationConfig,
    temperatureGiven: temperature !== undefined,
    idle: temperature === undefined ? idle : undefined,
    seedGiven: options.has('seed'),
    samples: options.count('num_samples', 1, MOST_SAMPLES),
    stopStrings,
  };
}
