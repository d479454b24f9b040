// What a command gets from the program around it: where to write, how to report progress, and when to stop.

import type { Logger } from 'pino';
import type { EarlyLoad } from './early-load.js';
import type { Interrupt } from './interrupt.js';
import type { Progress } from './progress.js';

export interface CommandContext {
  readonly log: Logger;
  readonly progress: Progress;
  readonly interrupt: Interrupt;
  /** Results go to stdout, and nothing else does. */
  readonly write: (text: string) => void;
  /** Figures for people go to stderr, as they are. */
  readonly tell: (text: string) => void;
  /** Stdout is a terminal: what is written appears between the lines of stderr. */
  readonly writesToTerminal: boolean;
  /** A model that is opened already, with layers on their way. */
  readonly early?: EarlyLoad;
}
