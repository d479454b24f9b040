// Along which dimension of its stored parts a matrix's outputs and inputs lie, format by format.

import type { PartName } from '../port/formats.js';
import type { MatrixSpec } from './layout.js';

/** So many values along a matrix's dimension are so many elements of the part's. */
export interface PartAxis {
  readonly axis: 0 | 1;
  readonly values: number;
  readonly elements: number;
}

/** A part as [rows, columns] of elements, and where outputs and inputs run in it; absent where all of them share it. */
export interface PartAxes {
  readonly shape: readonly [number, number];
  readonly outputs?: PartAxis;
  readonly inputs?: PartAxis;
}

const WORD_BITS = 32;

function along(axis: 0 | 1, values = 1, elements = 1): PartAxis {
  return { axis, values, elements };
}

/** Undefined where a part's elements follow no dimension: values of blocks whose own scales are in blocks. */
export function partAxes(matrix: MatrixSpec, part: PartName): PartAxes | undefined {
  const { format, shape, parts } = matrix;
  const [N, K] = shape;
  const { rowGroup, inputGroup } = format;
  const stored = parts[part]?.shape ?? [];
  const [first = 1, second = 1] = stored;
  const shared: PartAxes = { shape: [first, second] };
  if (part === 'global' || part === 'table' || part === 'nestedTable') return shared;
  if (part === 'nestedScales') return undefined;
  if (part === 'groups') return { shape: [first, 1], inputs: along(0) };
  // Where inputs name their groups, any device may need any group.
  const byGroup = (axis: 0 | 1) => (parts.groups ? {} : { inputs: along(axis, inputGroup) });
  switch (format.name) {
    case 'dense':
      return { shape: [first, second], outputs: along(0), inputs: along(1) };
    case 'dense_in':
      return { shape: [first, second], outputs: along(1), inputs: along(0) };
    case 'e4m3':
    case 'int8':
      if (part === 'codes') return { shape: [first, second], outputs: along(0), inputs: along(1) };
      return { shape: [first, second], outputs: along(0, rowGroup), ...byGroup(1) };
    case 'packed8':
    case 'packed4': {
      const perWord = format.name === 'packed4' ? WORD_BITS / 4 : WORD_BITS / 8;
      if (part === 'codes') return { shape: [first, second], outputs: along(0), inputs: along(1, perWord) };
      const outputs = along(0, part === 'zeros' ? perWord : 1);
      return { shape: [first, second], outputs, ...byGroup(1) };
    }
    case 'fp4':
      return {
        shape: [first, second],
        outputs: along(0),
        inputs: along(1, part === 'codes' ? 2 : inputGroup),
      };
    case 'table4': {
      const perElement = part === 'codes' ? 2 : inputGroup;
      if (parts.nestedScales || K % perElement !== 0) return undefined;
      return { shape: [N, K / perElement], outputs: along(0), inputs: along(1, perElement) };
    }
    case 'awq':
      if (part === 'codes') return { shape: [first, second], outputs: along(1, 8), inputs: along(0) };
      return { shape: [first, second], outputs: along(1, part === 'zeros' ? 8 : 1), ...byGroup(0) };
    case 'gptq': {
      const packed = (axis: 0 | 1) => along(axis, WORD_BITS, format.bits);
      if (part === 'codes') return { shape: [first, second], outputs: along(1), inputs: packed(0) };
      return { shape: [first, second], outputs: part === 'zeros' ? packed(1) : along(1), ...byGroup(0) };
    }
    case 'e4m3_in':
      if (part === 'codes') return { shape: [first, second], outputs: along(1), inputs: along(0) };
      return { shape: [first, second], outputs: along(1), ...byGroup(0) };
  }
}
