// The lines of a run's --output: which texts it already has, and how damaged lines are taken out of it.

import type { JsonObject } from '../../files/json-file.js';
import * as lines from '../../files/result-lines.js';
import { refusal } from './file.js';

export { type Line, linesOf, parseRecord, recordsOf } from '../../files/result-lines.js';

export type FinishedTexts = lines.FinishedLines;

const READING = { begins: '{"index":', refuse: refusal };

/** Throws BAD_INPUT for a record that does not belong to this run; the rest as `readFinished` of `src/files/result-lines.ts`. */
export function readFinished(
  results: string,
  placeOf: (record: JsonObject) => number | undefined | string,
): FinishedTexts {
  return lines.readFinished(results, READING, placeOf);
}

/** Throws WRITE_FAILED, and the results are what they were. */
export function dropDamaged(results: string, finished: FinishedTexts): lines.KeptBytes {
  return lines.dropDamaged(results, finished, '--output');
}
