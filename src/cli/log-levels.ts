// How much is logged, by name.

import type { OptionReader } from './options/option-reader.js';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Needed before anything else can be said. */
export function readLogLevel(options: OptionReader): LogLevel {
  return options.choice('log_level', LOG_LEVELS) ?? 'info';
}
