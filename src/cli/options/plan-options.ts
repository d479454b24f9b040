// Options of `plan`.

import type { OptionReader } from './option-reader.js';
import { readSharedOptions } from './shared-options.js';
import type { SharedOptions } from './shared-settings.js';

export interface PlanCommandOptions extends SharedOptions {
  readonly batchSize: number | 'auto';
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly maxContext: number | undefined;
  readonly machine: string | undefined;
  /** Undefined: all that the machine has. */
  readonly gpuCount: number | undefined;
  readonly json: boolean;
}

/** Throws BAD_OPTION, UNSUPPORTED or NO_DEVICE. */
export function readPlanCommandOptions(options: OptionReader): PlanCommandOptions {
  const shared = readSharedOptions(options, options.has('machine'));
  return {
    ...shared,
    batchSize:
      options.text('batch_size') === 'auto'
        ? 'auto'
        : (options.count('batch_size') ?? shared.dsConfig?.batchSize ?? 1),
    promptTokens: options.count('prompt_tokens') ?? 128,
    newTokens: options.count('max_new_tokens') ?? 100,
    maxContext: options.count('max_context'),
    machine: options.path('machine'),
    gpuCount: options.count('num_gpus'),
    json: options.flag('json'),
  };
}
