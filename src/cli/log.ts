// Logs: records on stderr, as lines for people where it is a terminal and as JSON elsewhere.

import { createRequire } from 'node:module';
import { type Logger, pino, stdTimeFunctions } from 'pino';
import type { LogLevel } from './log-levels.js';
import type { StatusLine } from './progress.js';

/** Written at once and in this process: nothing is lost when it ends, and no worker starts. */
export function createLogger(level: LogLevel, status: StatusLine): Logger {
  let format: ((line: string) => string) | undefined;
  const write = (line: string) => {
    if (status.isTerminal) format ??= prettyFormat(status.hasColours);
    status.writeAbove(format ? format(line) : line);
  };
  const formatters = { level: (label: string) => ({ level: label }) };
  return pino({ level, base: null, timestamp: stdTimeFunctions.isoTime, formatters }, { write });
}

/** Loaded at the first record: it costs some 60 ms, which short commands should not pay. */
function prettyFormat(colorize: boolean): (line: string) => string {
  const pretty: typeof import('pino-pretty') = createRequire(import.meta.url)('pino-pretty');
  return pretty.prettyFactory({ colorize, translateTime: 'SYS:HH:MM:ss', hideObject: true });
}
