// Layers taken apart: what comes by itself is all of an expert, and what is not alike or not the expert's alone is never taken for it.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { expertOf, expertsOf, placesOf } from '../../offload/model/experts.js';
import {
  type LayerSpec,
  layerOf,
  layoutLayer,
  type MatrixSpec,
  type TensorSpec,
} from '../../offload/model/layout.js';
import { DEVICE_ALIGNMENT_BYTES } from '../../offload/port/backend.js';
import { DTYPE_BYTES, type DType, elementCount, type FloatType } from '../../offload/port/dtype.js';
import { formatOf } from '../../offload/port/formats.js';
import { Random } from '../simulator/random.js';

/** Hands out places with odd gaps. */
function places(random: Random, firstByte = 0) {
  let used = firstByte;
  return (key: string, dtype: DType, shape: readonly number[]): TensorSpec => {
    const sizeBytes = elementCount(shape) * DTYPE_BYTES[dtype];
    const fileOffset = used + random.between(0, 9);
    used = fileOffset + sizeBytes;
    return { key, dtype, shape, extent: { fileIndex: 0, fileOffset, sizeBytes } };
  };
}
type Take = ReturnType<typeof places>;

const dense = (
  take: Take,
  key: string,
  shape: readonly [number, number],
  type: FloatType = 'bf16',
): MatrixSpec => ({
  key,
  format: formatOf('dense', type),
  shape,
  firstRow: 0,
  parts: { codes: take(key, type === 'f32' ? 'f32' : type, shape) },
});

const scaled = (take: Take, key: string, more: Partial<MatrixSpec> = {}): MatrixSpec => ({
  key,
  format: formatOf('e4m3', 'bf16', { rowGroup: 8, inputGroup: 16 }),
  shape: [16, 32],
  firstRow: 0,
  parts: { codes: take(key, 'e4m3', [16, 32]), scales: take(`${key} scales`, 'f32', [2, 2]) },
  ...more,
});

interface Changes {
  readonly count?: number;
  /** In place of what the last expert has. */
  readonly last?: (take: Take, key: string) => readonly MatrixSpec[];
  readonly others?: (take: Take, experts: readonly MatrixSpec[]) => readonly MatrixSpec[];
}

function layerWith(
  { count = 4, last, others = () => [] }: Changes = {},
  take = places(new Random(3)),
): LayerSpec {
  const experts = Array.from({ length: count }, (_, e) => {
    const key = `mlp.experts.${e}`;
    if (last && e === count - 1) return last(take, key);
    return [dense(take, `${key}.up`, [24, 8]), scaled(take, `${key}.down`)];
  }).flat();
  const router = dense(take, 'mlp.gate', [count, 8]);
  const all = [router, ...experts, ...others(take, experts), take('norm', 'bf16', [8])];
  return layerOf('layer', new Random(5).shuffled(all));
}

const apart = (changes: Changes) => expertsOf(layoutLayer(layerWith(changes)));

it('an expert is named by its number, wherever it stands', () => {
  expect(expertOf('mlp.experts.12.up')).toEqual({ expert: 12, matrix: 'mlp.experts.*.up' });
  expect(expertOf('experts.0.up')).toEqual({ expert: 0, matrix: 'experts.*.up' });
  for (const key of ['mlp.shared_experts.0.up', 'mlp.experts.up', 'mlp.experts.gate_up_proj', 'gate'])
    expect(expertOf(key)).toBeUndefined();
});

it('the base and the slots have every byte of the layer once, and an expert’s parts are where the tables say', () => {
  const layer = layerWith();
  const layout = layoutLayer(layer);
  const experts = present(expertsOf(layout), 'experts');
  expect(experts.count).toBe(4);
  expect(experts.base.placements.map(({ weight }) => weight.key).sort()).toEqual(['mlp.gate', 'norm']);
  let used = 0;
  for (const { offsetBytes, sizeBytes } of experts.parts) {
    expect(offsetBytes).toBe(used);
    used += Math.ceil(sizeBytes / DEVICE_ALIGNMENT_BYTES) * DEVICE_ALIGNMENT_BYTES;
  }
  expect(experts.slotBytes).toBe(used);
  const width = 2 * experts.parts.length;
  const words = placesOf(experts);
  expect(words).toHaveLength(5 * width);
  const home = new Map(layout.host.placements.map(({ weight, offsetBytes }) => [weight.key, offsetBytes]));
  experts.parts.forEach(({ matrix, name, offsetBytes, sizeBytes }, part) => {
    expect([...words.subarray(2 * part, 2 * part + 2)]).toEqual([offsetBytes, sizeBytes]);
    for (let e = 0; e < 4; e++) {
      const key = matrix.replace('*', String(e)) + (name === 'codes' ? '' : ` ${name}`);
      expect([...words.subarray((1 + e) * width + 2 * part)].slice(0, 2)).toEqual([home.get(key), 0]);
    }
  });
});

it('places beyond 2 and 4 GiB of a layer are two words', () => {
  for (const at of [2 ** 31 + 5, 2 ** 32 + 7, 3 * 2 ** 33 + 2 ** 31]) {
    const parts = [{ matrix: 'm', name: 'codes', offsetBytes: 0, sizeBytes: 16 }] as const;
    const [, , low = 0, high = 0] = placesOf({ parts, hostOffsets: [[at]] });
    expect(high * 2 ** 32 + (low >>> 0)).toBe(at);
  }
});

describe('there are no slots', () => {
  it('without experts, with a number missing, and with more than kernels sort', () => {
    expect(apart({ count: 0 })).toBeUndefined();
    const missing = (take: Take) => [
      dense(take, 'mlp.experts.9.up', [24, 8]),
      scaled(take, 'mlp.experts.9.down'),
    ];
    expect(apart({ last: missing })).toBeUndefined();
    expect(apart({ count: 1024 })?.count).toBe(1024);
    expect(apart({ count: 1025 })).toBeUndefined();
  });

  const up = (take: Take, key: string) => dense(take, `${key}.up`, [24, 8]);
  it.each<readonly [string, NonNullable<Changes['last']>]>([
    [
      'of another type',
      (take, key) => [dense(take, `${key}.up`, [24, 8], 'f16'), scaled(take, `${key}.down`)],
    ],
    ['of another shape', (take, key) => [dense(take, `${key}.up`, [8, 24]), scaled(take, `${key}.down`)]],
    [
      'that begins within a block of scales',
      (take, key) => [up(take, key), scaled(take, `${key}.down`, { firstRow: 3 })],
    ],
    [
      'with other blocks',
      (take, key) => {
        const format = formatOf('e4m3', 'bf16', { rowGroup: 4, inputGroup: 32 });
        return [up(take, key), scaled(take, `${key}.down`, { format })];
      },
    ],
    ['that lacks a matrix', (take, key) => [up(take, key)]],
    [
      'with a matrix more',
      (take, key) => [up(take, key), scaled(take, `${key}.down`), up(take, `${key}.other`)],
    ],
    [
      'without scales',
      (take, key) => {
        const parts = { codes: take(`${key}.down`, 'e4m3', [16, 32]) };
        return [up(take, key), scaled(take, `${key}.down`, { parts })];
      },
    ],
  ])('where one is %s', (_, last) => {
    expect(apart({ last })).toBeUndefined();
  });

  it('where scales are of scales, or are those of what every token uses', () => {
    const nested = (take: Take, key: string) => {
      const parts = { codes: take(key, 'u8', [256]), scales: take(`${key} s`, 'u8', [8]) };
      const all = {
        ...parts,
        nestedTable: take(`${key} t`, 'f32', [256]),
        nestedScales: take(`${key} n`, 'f32', [1]),
      };
      return [
        scaled(take, `${key}.down`, { format: formatOf('table4', 'bf16', { inputGroup: 64 }), parts: all }),
      ];
    };
    expect(apart({ count: 1, last: nested })).toBeUndefined();
    const shares = (take: Take, experts: readonly MatrixSpec[]) => {
      const scales = present(experts[1]?.parts.scales, 'scales');
      return [scaled(take, 'mlp.shared', { parts: { codes: take('shared', 'e4m3', [16, 32]), scales } })];
    };
    expect(apart({ others: shares })).toBeUndefined();
  });
});

it('what experts share comes with each of them', () => {
  const scales = places(new Random(1), 100_000)('common scales', 'f32', [2, 2]);
  const take = places(new Random(2));
  const matrices = Array.from({ length: 3 }, (_, e) =>
    scaled(take, `experts.${e}.down`, { parts: { codes: take(`codes ${e}`, 'e4m3', [16, 32]), scales } }),
  );
  const { hostOffsets, parts } = present(expertsOf(layoutLayer(layerOf('layer', matrices))), 'experts');
  const at = parts.findIndex(({ name }) => name === 'scales');
  expect(new Set(hostOffsets.map((offsets) => offsets[at])).size).toBe(1);
  expect(new Set(hostOffsets.map((offsets) => offsets[1 - at])).size).toBe(3);
});
