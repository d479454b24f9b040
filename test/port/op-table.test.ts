// The table of encoded operations: the encoder writes as it says, and the addon reads as it says.

import { describe, expect, it } from 'vitest';
import { encodeCopy, encodeCopyRows, encodeFill, encodeOp } from '../../offload/backends/op-encoding.js';
import { FORMATS, PART_NAMES } from '../../offload/port/formats.js';
import { native } from '../../offload/port/native.js';
import {
  ENCODED_ACTIVATIONS,
  ENCODED_DTYPES,
  ENCODED_SCORES,
  OPERATIONS,
  operationTable,
} from '../../offload/port/op-table.js';
import { partsOf, type Tensor, type Weight } from '../../offload/port/ops.js';
import { operand, SAMPLES } from './op-samples.js';

function isWeight(value: unknown): value is Weight {
  return typeof value === 'object' && value !== null && 'format' in value;
}

/** A weight as the line "weights" of the table has it. */
function weightWords({ format, shape, firstRow, parts }: Weight): number[] {
  const line = operationTable().find((row) => row.startsWith('weights: ')) ?? '';
  const values: Readonly<Record<string, unknown>> = { shape, firstRow, ...format };
  const words = line
    .slice('weights: '.length)
    .split(' ')
    .flatMap((name) => {
      if (name === 'format') return [FORMATS.indexOf(format.name)];
      if (name === 'parts')
        return [PART_NAMES.reduce((mask, part, bit) => mask + (parts[part] ? 2 ** bit : 0), 0)];
      if (name === 'shape') return [...shape];
      if ((PART_NAMES as readonly string[]).includes(name)) {
        const part = parts[name as keyof typeof parts];
        return part ? written(part) : [];
      }
      const value = values[name];
      return [
        typeof value === 'string' ? (ENCODED_DTYPES as readonly string[]).indexOf(value) : Number(value),
      ];
    });
  return words;
}

function isTensor(value: unknown): value is Tensor {
  return typeof value === 'object' && value !== null && 'strides' in value;
}

/** What the table names, by what it is. */
function written(value: unknown): number[] {
  if (value === null) return new Array<number>(12).fill(0);
  if (typeof value === 'number') return [value];
  if (typeof value === 'boolean') return [Number(value)];
  if (typeof value === 'string') {
    const lists: readonly (readonly string[])[] = [ENCODED_ACTIVATIONS, ENCODED_SCORES];
    return [lists.find((names) => names.includes(value))?.indexOf(value) ?? -1];
  }
  if (isWeight(value)) return weightWords(value);
  if (Array.isArray(value)) {
    const weights = value as Weight[];
    return [
      value.length,
      ...written(weights[0]),
      ...weights.flatMap(partsOf).flatMap(({ memory, offsetBytes }) => [memory.id, offsetBytes]),
    ];
  }
  if (!isTensor(value)) return [(value as { id: number }).id];
  const four = (sizes: readonly number[]) => [...sizes, 0, 0, 0, 0].slice(0, 4);
  const { memory, offsetBytes, dtype, shape, strides } = value;
  const type = ENCODED_DTYPES.indexOf(dtype);
  return [memory.id, offsetBytes, type, shape.length, ...four(shape), ...four(strides)];
}

function named(from: object, path: string): unknown {
  return path
    .split('.')
    .reduce<unknown>((value, key) => (value as Record<string, unknown>)[key], from as unknown);
}

describe('the table of operations', () => {
  it.each(Object.values(SAMPLES))('$op is written as its row says', (sample) => {
    const code = OPERATIONS.findIndex(([name]) => name === sample.op);
    const operands = OPERATIONS[code]?.[1] ?? '';
    const words = operands.split(' ').flatMap((path) => written(named(sample, path)));
    expect([...encodeOp(sample)]).toEqual([code, ...words]);
  });

  it('copies and fills are written as their rows say', () => {
    const [to, from] = [operand().memory, operand().memory];
    const copy = { to, toOffsetBytes: 1, from, fromOffsetBytes: 2, sizeBytes: 3 };
    const fill = { to, offsetBytes: 4, sizeBytes: 5, byte: 6 };
    const rows = new Map<string, string>(OPERATIONS);
    const expected = (name: string, from: object) => [
      OPERATIONS.findIndex(([other]) => other === name),
      ...(rows.get(name) ?? '').split(' ').flatMap((path) => written(named(from, path))),
    ];
    expect([...encodeCopy(to, 1, from, 2, 3)]).toEqual(expected('copy', copy));
    const [counts, sizes] = [
      { rowBytes: 5, rows: 6 },
      { toOffsetBytes: 1, fromOffsetBytes: 2 },
    ];
    const rowCopy = { to, toStrideBytes: 7, from, fromStrideBytes: 8, ...counts, ...sizes };
    expect([...encodeCopyRows(rowCopy)]).toEqual(expected('copy_rows', rowCopy));
    expect([...encodeFill(to, 4, 5, 6)]).toEqual(expected('fill', fill));
  });

  it('is what the addon reads by', () => {
    expect(native().operationTable()).toEqual(operationTable());
    expect(new Set(OPERATIONS.map(([name]) => name)).size).toBe(OPERATIONS.length);
  });
});
