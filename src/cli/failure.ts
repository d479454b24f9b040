// How the program says why it failed: one line with a code, and the exit status that belongs to it.

import { ERROR_CODES, OperatingError } from '../../offload/index.js';
import { systemFailure } from '../files/system-failure.js';
import { StdoutClosed } from './interrupt.js';

/** The exit status of a fault of this program, which has no code in the table of errors. */
export const INTERNAL_STATUS = 1;

/** What goes to stderr, and the exit status. */
export function describeFailure(thrown: unknown, withStack: boolean): { text: string; exitStatus: number } {
  if (thrown instanceof StdoutClosed) return { text: '', exitStatus: 0 };
  const error = systemFailure(thrown) ?? thrown;
  const stack = withStack ? `${stackOf(error)}\n` : '';
  const message = (error instanceof Error ? error.message : String(error)).replaceAll(/\s*\n\s*/g, ' ');
  if (error instanceof OperatingError) {
    const { exitStatus } = ERROR_CODES[error.code];
    return { text: `zero-inference: ${error.code}: ${message}\n${stack}`, exitStatus };
  }
  const hint = withStack ? '' : ' (a fault of this program; ZI_DEBUG=1 shows where)';
  return { text: `zero-inference: INTERNAL: ${message}${hint}\n${stack}`, exitStatus: INTERNAL_STATUS };
}

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? '' : `\ncaused by ${stackOf(error.cause)}`;
  return `${error.stack}${cause}`;
}
