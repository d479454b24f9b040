// Options of `plan`.

import { MAX_CONTEXT, SHARED_OPTIONS } from './shared.js';
import type { OptionTable } from './spec.js';

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
    choices: ['auto'],
    group: PLAN,
    describe: 'prompts that run together; auto: as many as fit',
    default: '1',
  },
  prompt_tokens: { kind: 'value', group: PLAN, describe: 'tokens of a prompt', default: '128' },
  max_new_tokens: {
    kind: 'value',
    short: 'n',
    group: PLAN,
    describe: 'new tokens per prompt',
    default: '100',
  },
  max_context: MAX_CONTEXT,
  machine: {
    kind: 'value',
    names: 'file',
    group: PLAN,
    describe: 'plan for the machine that this file describes: configs/machines, or doctor --save FILE',
    default: 'this one, its compute measured',
  },
  hosts: {
    kind: 'value',
    group: PLAN,
    describe: 'with --prompts: so many machines like this one share them',
    default: '1',
  },
  prompts: {
    kind: 'value',
    group: PLAN,
    describe: 'how long a job of so many prompts would take, and up to how many hosts more of them help',
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
  [
    '$0 plan --name configs/models/gpt-oss-120b.json --machine configs/machines/desktop-24g.json',
    'in the format that it is published in',
  ],
  [
    '$0 plan --name configs/models/opt-30b.json --machine configs/machines/h100-x1.json --batch_size auto --prompts 1000000 --hosts 16',
    'a million prompts on 16 hosts',
  ],
] as const;
