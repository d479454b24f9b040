// Options of `plan`.

import type { OptionReader, OptionTable } from './option-reader.js';
import { MAX_CONTEXT, readSharedOptions, SHARED_OPTIONS, type SharedOptions } from './shared-options.js';

const PLAN = 'Plan';
const {
  report: _report,
  trace: _trace,
  dummy_weights: _dummy,
  virtual_devices: _virtual,
  ...SHARED
} = SHARED_OPTIONS;

export const PLAN_OPTIONS = {
  batch_size: {
    kind: 'value',
    group: PLAN,
    describe: 'prompts that run together; auto: as many as fit',
    default: '1',
  },
  prompt_tokens: { kind: 'value', group: PLAN, describe: 'tokens of a prompt', default: '128' },
  max_new_tokens: { kind: 'value', group: PLAN, describe: 'new tokens per prompt', default: '100' },
  max_context: MAX_CONTEXT,
  machine: {
    kind: 'value',
    group: PLAN,
    describe: 'plan for the machine that this file describes: configs/machines, or doctor --save FILE',
    default: 'this one, its compute measured',
  },
  json: { kind: 'flag', group: PLAN, describe: 'print the plan as JSON' },
  ...SHARED,
} as const satisfies OptionTable;

export const PLAN_EXAMPLES = [
  ['$0 plan --name FOLDER --batch_size 8', 'what would rest where on this machine'],
  [
    '$0 plan --name configs/models/bloom-176b.json --machine configs/machines/h100-x1.json',
    'a shape on another machine',
  ],
] as const;

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
