// Options of `plan`.

import type { HostsQuestion } from '../../report/hosts.js';
import { badOption, type OptionReader } from './option-reader.js';
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
  /** Undefined: one. */
  readonly hosts: HostsQuestion | undefined;
  readonly json: boolean;
}

/** Throws BAD_OPTION, UNSUPPORTED or NO_DEVICE. */
export function readPlanCommandOptions(options: OptionReader): PlanCommandOptions {
  const shared = readSharedOptions(options, options.has('machine') ? 'described' : 'several');
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
    hosts: readHosts(options),
    json: options.flag('json'),
  };
}

function readHosts(options: OptionReader): HostsQuestion | undefined {
  const [hosts, prompts] = [options.count('hosts'), options.count('prompts')];
  if (hosts === undefined && prompts === undefined) return undefined;
  if (prompts === undefined)
    throw badOption('--hosts share the prompts of a job: add --prompts with their number');
  return { hosts: hosts ?? 1, prompts };
}
