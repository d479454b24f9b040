// Products with stored weights on the CPU: against float64, and bit for bit what their expanded values give as a dense weight.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { present } from '../../offload/errors.js';
import { DTYPE_BYTES, type DType } from '../../offload/port/dtype.js';
import { native } from '../../offload/port/native.js';
import type { Op, Tensor, Weight } from '../../offload/port/ops.js';
import { denseWeight } from '../../offload/port/weights.js';
import { PRODUCT_KERNELS } from './cpu-device.js';
import { expandedOf } from './expected.js';
import { choices } from './expert-cases.js';
import { buildWeight, canBeCut, fitted, WEIGHT_KINDS } from './weight-builder.js';
import { weightCases } from './weight-cases.js';
import { rowsOf, type Workbench } from './workbench.js';

/** More tokens than are multiplied with weights a few rows at a time. */
const TOKENS = 40;

/** Its values as a weight of their type, with column `order(k)` at k. */
function expanded(bench: Workbench, weight: Weight, order: (k: number) => number): Weight {
  const K = weight.shape[1];
  const values = expandedOf(weight, bench.memory);
  const stored = bench.memory.tensor(weight.format.type, weight.shape);
  return denseWeight(bench.memory.fill(stored, (i) => values[i - (i % K) + order(i % K)] ?? Number.NaN));
}

/** The order in which a set of kernels adds up products: that of inputs, but for short codes that many lanes take from one load. */
function addedAs({ format, shape, parts }: Weight, isa: string): (k: number) => number {
  const [, K] = shape;
  const inPairs = (isa === 'avx512bf16' || isa.startsWith('amx')) && format.type === 'bf16' && K % 2 === 0;
  const isTurned = format.name === 'awq' || (format.name === 'gptq' && format.bits === 4);
  const isLowFirst = isTurned || format.name === 'packed4' || format.name === 'fp4';
  const fits = (block: number) =>
    K % block === 0 && (format.inputGroup % block === 0 || format.inputGroup >= K);
  const block = (isLowFirst ? [64, 32] : format.name === 'e4m3' ? [32] : []).find(fits);
  const isPowers = format.name === 'fp4' && parts.scales?.dtype === 'e8m0' && !parts.global;
  const keeps = inPairs && !(isa === 'avx512bf16' && isPowers);
  if (isa === 'avx2' || keeps || parts.groups || !block) return (k) => k;
  // Pairs are looked up 32 at a time: each quarter of them has the same bits of eight words.
  const [size, lanes] = inPairs ? [32, 8] : [block, 16];
  return (k) => {
    const at = k % size;
    return k - at + (at % lanes) * (size / lanes) + Math.floor(at / lanes);
  };
}

/** Bits of nothing, of the least numbers, of the greatest and of what is none, where a type has them. */
const SCALE_ENDS: Readonly<Partial<Record<DType, readonly number[]>>> = {
  f32: [0, 1, 0x00800000, 0x01000000, 0x7f7fffff, 0xff800000],
  f16: [0, 1, 0x0400, 0x7bff, 0xfc00],
  bf16: [0, 1, 0x0080, 0x0100, 0x0180, 0x7d80, 0x7f7f, 0xff80],
  e4m3: [0, 1, 8, 0x7e],
  e8m0: [0, 1, 2, 3, 252, 253, 254],
};

function setBits({ memory }: Workbench, { dtype, offsetBytes }: Tensor, index: number, bits?: number): void {
  if (bits === undefined) return;
  const size = DTYPE_BYTES[dtype];
  for (let i = 0; i < size; i++)
    memory.view.setUint8(offsetBytes + index * size + i, (bits >>> (8 * i)) & 255);
}

const linear = { op: 'linear', bias: null, activation: 'none', accumulate: false } as const;

for (const device of PRODUCT_KERNELS) {
  const { use, run } = device;
  describe.skipIf(!device.present)(`stored weights with ${device.isa}`, () => {
    weightCases(device);

    it.each(WEIGHT_KINDS)('$label: the bits of a dense weight, in any batch', async (kind) => {
      const other = WEIGHT_KINDS.indexOf(kind) % 2 === 0 ? 'f32' : 'f16';
      for (const [type, size] of [
        ['bf16', 2176],
        [other, 1090],
      ] as const) {
        const bench = device.workbench(size);
        const [outputs, inputs] = fitted(kind, [21, size]);
        const weight = buildWeight(bench, kind, [outputs, inputs], {
          type,
          firstRow: canBeCut(kind) ? 5 : 0,
        });
        const x = bench.activation([TOKENS, inputs]);
        const out = bench.activation([TOKENS, outputs]);
        use(1);
        const order = addedAs(weight, device.isa);
        const given = bench.memory.read(x);
        const placed = bench.memory.fill(
          bench.memory.tensor('f32', x.shape),
          (i) => given[i - (i % inputs) + order(i % inputs)] ?? Number.NaN,
        );
        await run({ ...linear, out, x: placed, weight: expanded(bench, weight, order) }, bench);
        const dense = bench.memory.read(out);
        for (const count of [1, 2, 7, 29, TOKENS]) {
          use(1 + (count % 3));
          bench.memory.fill(out, () => Number.NaN);
          for (let first = 0; first < TOKENS; first += count) {
            const part = (tensor: Tensor): Tensor => rowsOf(tensor, first, Math.min(count, TOKENS - first));
            await run({ ...linear, out: part(out), x: part(x), weight }, bench);
          }
          expect(bench.memory.read(out), `${type}, ${count} at once`).toEqual(dense);
        }
      }
    });

    it.each(WEIGHT_KINDS)('$label: experts have the bits of linear', async (kind) => {
      use(2);
      const bench = device.workbench(3);
      const [outputs, inputs] = fitted(kind, [19, 1100]);
      const [tokens, experts, each] = [5, 3, 2];
      const weights = Array.from({ length: experts }, () => buildWeight(bench, kind, [outputs, inputs]));
      const chosen = choices(bench, tokens, each, experts);
      const x = bench.activation([tokens, inputs]);
      const out = bench.activation([tokens * each, outputs]);
      await run({ op: 'expert_linear', out, x, experts: chosen, weights }, bench);
      const together = bench.memory.read(out);
      const ids = bench.memory.read(chosen);
      bench.memory.fill(out, () => Number.NaN);
      for (let choice = 0; choice < tokens * each; choice++) {
        const weight = present(weights[ids[choice] ?? -1], 'an expert');
        const row = rowsOf(x, Math.floor(choice / each), 1);
        await run({ ...linear, out: rowsOf(out, choice, 1), x: row, weight }, bench);
      }
      expect(bench.memory.read(out)).toEqual(together);
    });

    it.each(WEIGHT_KINDS)('$label: scales at the ends of their type', async (kind) => {
      const bench = device.workbench(6);
      const [outputs, inputs] = fitted(kind, [19, 576]);
      const weight = buildWeight(bench, kind, [outputs, inputs]);
      const scales = present(weight.parts.scales, 'scales');
      const ends = SCALE_ENDS[scales.dtype] ?? [];
      const count = scales.shape.reduce((product, size) => product * size, 1);
      for (let i = 0; i < count; i += 5) setBits(bench, scales, i, ends[(i / 5) % Math.max(1, ends.length)]);
      const order = addedAs(weight, device.isa);
      const [x, placed] = [bench.activation([3, inputs]), bench.activation([3, inputs])];
      const given = bench.memory.read(x);
      bench.memory.fill(placed, (i) => given[i - (i % inputs) + order(i % inputs)] ?? Number.NaN);
      const out = bench.activation([3, outputs]);
      use(1);
      await run({ ...linear, out, x: placed, weight: expanded(bench, weight, order) }, bench);
      const dense = bench.memory.read(out);
      for (const tokens of [1, 3]) {
        bench.memory.fill(out, () => Number.NaN);
        for (let first = 0; first < 3; first += tokens) {
          const part = (tensor: Tensor): Tensor => rowsOf(tensor, first, tokens);
          await run({ ...linear, out: part(out), x: part(x), weight }, bench);
        }
        expect(bench.memory.read(out), `${tokens} at once`).toEqual(dense);
      }
    });

    it('what is NaN in a weight is NaN in its products', async () => {
      use();
      for (const [label, part, bits] of [
        ['e4m3, a scale per row', 'codes', 0xff],
        ['e4m3, e8m0 scales', 'scales', 0xff],
        ['e4m3, blocks of 128 × 128', 'scales', 0xff],
        ['int8, a scale per row', 'scales', 0xff],
        ['packed4, groups of 64', 'scales', 0xff],
        ['packed4, groups of 32', 'scales', 0x7f],
        ['fp4, e8m0 scales', 'scales', 0xff],
        ['fp4, times global', 'scales', 0x7f],
        ['table4', 'scales', 0x7f],
        ['gptq of 4 bits', 'scales', 0xff],
      ] as const) {
        const kind = present(
          WEIGHT_KINDS.find((other) => other.label === label),
          label,
        );
        const bench = device.workbench(4);
        const [outputs, inputs] = fitted(kind, [16, 64]);
        const weight = buildWeight(bench, kind, [outputs, inputs]);
        const spoilt = present(weight.parts[part], part);
        const size = { e4m3: 1, e8m0: 1, bf16: 2, f16: 2, f32: 4, u8: 1, i8: 1, i32: 4 }[spoilt.dtype];
        for (let i = 0; i < size; i++) bench.memory.view.setUint8(spoilt.offsetBytes + i, bits);
        const out = bench.activation([1, outputs]);
        const x = bench.memory.fill(bench.memory.tensor('f32', [1, inputs]), () => 1);
        await run({ ...linear, out, x, weight }, bench);
        expect(bench.memory.read(out)[0], label).toBeNaN();
      }
    });

    it.each([
      ['packed4, zeros and scattered groups', -1],
      ['packed4, zeros and scattered groups', 4],
      ['gptq of 4 bits, scattered groups', 4],
      ['gptq of 4 bits, scattered groups', -2147483648],
    ])('%s: group %i ends the operation with a sentence', async (label, group) => {
      use();
      const kind = present(
        WEIGHT_KINDS.find((other) => other.label === label),
        label,
      );
      const bench = device.workbench(5);
      const weight = buildWeight(bench, kind, [8, 128]);
      const groups = present(weight.parts.groups, 'groups');
      bench.memory.view.setInt32(groups.offsetBytes + 4 * 77, group, true);
      const [out, x] = [bench.activation([1, 8]), bench.activation([1, 128])];
      const experts = bench.table([[0]]);
      const ops: readonly Op[] = [
        { ...linear, out, x, weight },
        { op: 'expert_linear', out, x, experts, weights: [weight] },
      ];
      for (const op of ops) {
        const broken = native().createStream('weights');
        broken.launch(encodeOp(op));
        await expect(broken.record().promise()).rejects.toThrow(`group ${group} of input 77 is none of 4`);
        broken.close();
      }
    });
  });
}
