// How much is logged: the option that every command has.

import { LOG_LEVELS } from '../../log-levels.js';
import type { OptionSpec } from './spec.js';

export const LOG_LEVEL = {
  kind: 'value',
  choices: LOG_LEVELS,
  group: 'Output',
  describe: LOG_LEVELS.join(', '),
  default: 'info',
} as const satisfies OptionSpec;
