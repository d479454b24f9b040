// Which rows of a stored weight's parts one of its outputs depends on, so that pieces of a weight give what the whole gives.

import { PART_NAMES, type PartName } from '../../offload/port/formats.js';
import type { Weight } from '../../offload/port/ops.js';

/** The row of each part that output n needs a row of; undefined where outputs lie side by side in words, or all is flat. */
export function rowsOfOutput(weight: Weight): { [Name in PartName]?: (n: number) => number } | undefined {
  const { format, firstRow } = weight;
  switch (format.name) {
    case 'dense':
      return { codes: (n) => n };
    case 'e4m3':
    case 'int8':
    case 'packed8':
    case 'packed4':
    case 'fp4': {
      const perWord = format.name === 'packed8' ? 4 : format.name === 'packed4' ? 8 : format.rowGroup;
      return {
        codes: (n) => n,
        scales: (n) => Math.floor((n + firstRow) / format.rowGroup),
        zeros: (n) => Math.floor((n + firstRow) / perWord),
      };
    }
    case 'table4':
    case 'dense_in':
    case 'awq':
    case 'gptq':
    case 'e4m3_in':
      return undefined;
  }
}

/** Parts that every output needs all of. */
export function sharedParts({ parts }: Weight, byRow: { [Name in PartName]?: unknown }) {
  return PART_NAMES.flatMap((name) => (name in byRow ? [] : (parts[name] ?? [])));
}
