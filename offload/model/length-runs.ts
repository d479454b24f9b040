// Sequences that one row of a table by length holds for, as runs of tokens.

import type { SequenceLength } from './forward-options.js';

export interface LengthRun {
  readonly row: number;
  readonly first: number;
  readonly count: number;
}

/** Row 0 holds up to `firstLength` tokens, then one row per token more; the last one beyond. Neighbours of one row go together. */
export function runsOfLengths(
  lengths: readonly SequenceLength[],
  firstLength: number,
  lastRow: number,
): LengthRun[] {
  const runs: { row: number; first: number; count: number }[] = [];
  let first = 0;
  for (const { tokens, knownTokens } of lengths) {
    const row = Math.min(Math.max(knownTokens - firstLength, 0), lastRow);
    const run = runs.at(-1);
    if (run?.row === row) run.count += tokens;
    else runs.push({ row, first, count: tokens });
    first += tokens;
  }
  return runs;
}
