// Products with stored weights on a GPU against float64: the cases of every device, inputs of 16 bits that tensor cores take,
// products that are joined, and rows that become values slab by slab.

import { describe, expect, it } from 'vitest';
import { encodeOp, joinEncoded } from '../../offload/backends/op-encoding.js';
import { present } from '../../offload/errors.js';
import type { FloatType } from '../../offload/port/dtype.js';
import { formatOf } from '../../offload/port/formats.js';
import { native } from '../../offload/port/native.js';
import type { Op, Tensor, Weight } from '../../offload/port/ops.js';
import {
  checkOnGpu as check,
  GPU_KERNELS,
  gpuBench,
  gpuStream,
  HAS_GPU,
  OWN_KERNELS_ONLY,
  runOnGpu,
} from './cuda-device.js';
import { referenceOp } from './reference-ops.js';
import { TestMemory } from './tensor-bytes.js';
import { buildWeight, canBeCut, fitted, WEIGHT_KINDS } from './weight-builder.js';
import { weightCases } from './weight-cases.js';
import { ACTIVATIONS } from './workbench.js';

/** Sums are f32; a product of many tokens stored in 16 bits before its activation is rounded twice. */
const TOLERANCE: Readonly<Record<string, number>> = { f16: 2e-3, bf16: 8e-3 };

/**
 * [tokens, outputs, inputs]: whole and short rounds of units, one row more than blocks have, several rounds, several tiles of a block;
 * more tokens than a few with inputs shared by blocks, several blocks of rows, short last units.
 */
const SHAPES = [
  [1, 16, 128],
  [1, 33, 4096],
  [2, 5, 96],
  [3, 49, 2176],
  [8, 40, 1152],
  [8, 17, 8320],
  [5, 20, 704],
  [1, 4241, 96],
  [9, 130, 256],
  [40, 31, 520],
  [66, 9, 1024],
  [12, 270, 160],
  [128, 5, 224],
] as const;

describe.skipIf(!HAS_GPU)('stored weights on CUDA', () => {
  weightCases(GPU_KERNELS);

  for (const half of ['bf16', 'f16'] as const) {
    it.each(WEIGHT_KINDS)(`$label times ${half}`, async (kind) => {
      for (const [index, [tokens, ...size]] of SHAPES.entries()) {
        if (OWN_KERNELS_ONLY && tokens > 8) continue;
        const bench = gpuBench(index, index % 4 === 3);
        const [outputs, inputs] = fitted(kind, size);
        const firstRow = index % 3 === 1 && canBeCut(kind) ? 16 : 0;
        const weight = buildWeight(bench, kind, [outputs, inputs], { type: half, firstRow });
        const bias = index % 2 === 0 ? null : bench.weight(index % 4 === 1 ? half : 'f32', [outputs]);
        const activation = ACTIVATIONS[index % ACTIVATIONS.length] ?? 'none';
        for (const [from, to] of [
          [half, 'f32'],
          [half, half],
          ['f32', 'f32'],
        ] as const) {
          const x = bench.activation([tokens, inputs], 1, from);
          const out = bench.activation([tokens, outputs], 1, to);
          const op = { op: 'linear', out, x, weight, bias, activation, accumulate: index % 3 === 0 } as const;
          await check(bench, op, TOLERANCE[half]);
        }
      }
    });
  }

  it('several of the same inputs are computed as each alone', async () => {
    for (const kind of WEIGHT_KINDS.filter(({ name }) => name !== 'table4')) {
      const bench = gpuBench(7, false);
      const [, inputs] = fitted(kind, [16, 512]);
      const x = bench.activation([2, inputs], 1, 'bf16');
      const ops = [48, 16, 40, 64].map((outputs, index): Op & { op: 'linear' } => ({
        op: 'linear',
        out: bench.activation([2, outputs]),
        x,
        weight: buildWeight(bench, index === 2 ? present(WEIGHT_KINDS[13], 'kind') : kind, [outputs, inputs]),
        bias: index % 2 === 0 ? bench.weight('bf16', [outputs]) : null,
        activation: 'none',
        accumulate: false,
      }));
      const expected = ops.flatMap((op) => referenceOp(op, bench.memory.bytes));
      gpuStream().launchAll(joinEncoded(ops.map((op) => encodeOp(op).slice())));
      await gpuStream().record().promise();
      for (const { tensor, values } of expected) {
        const scale = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
        const got = bench.memory.read(tensor);
        expect(got.every((value, i) => Math.abs(value - (values[i] ?? 0)) <= 8e-3 * scale)).toBe(true);
      }
    }
  });

  // Kernels that take codes apart may lose numbers far from one, or a NaN.
  const ROW_KINDS = WEIGHT_KINDS.filter(({ name }) => ['e4m3', 'int8', 'packed8', 'packed4'].includes(name));

  it.each(ROW_KINDS)('$label: inputs of any size give results of that size, to the bit', async (kind) => {
    for (const [tokens, ...size] of [
      [1, 40, 4128],
      [8, 33, 1120],
      [70, 33, 4128],
    ] as const) {
      if (OWN_KERNELS_ONLY && tokens > 8) continue;
      const bench = gpuBench(tokens, false);
      const [outputs, inputs] = fitted(kind, size);
      const weight = buildWeight(bench, kind, [outputs, inputs]);
      const x = bench.activation([tokens, inputs], 1, 'bf16');
      const values = bench.memory.read(x);
      const resultsOf = async (factor: number) => {
        bench.memory.fill(x, (i) => (values[i] ?? 0) * factor);
        const out = bench.activation([tokens, outputs]);
        const rest = { bias: null, activation: 'none', accumulate: false } as const;
        await runOnGpu({ op: 'linear', out, x, weight, ...rest }, bench.memory);
        return bench.memory.read(out).map((value) => value / factor);
      };
      const expected = await resultsOf(1);
      for (const factor of [2 ** -40, 2 ** 40]) expect(await resultsOf(factor)).toEqual(expected);
    }
  });

  it.each(ROW_KINDS.filter(({ name }) => name === 'e4m3'))(
    '$label: a code that is no number makes none of its row, and of no other',
    async (kind) => {
      for (const [half, tokens] of [
        ['bf16', 3],
        ['f16', 3],
        ['bf16', 20],
      ] as const) {
        if (OWN_KERNELS_ONLY && tokens > 8) continue;
        const bench = gpuBench(3, false);
        const [outputs, inputs] = fitted(kind, [40, 1120]);
        const weight = buildWeight(bench, kind, [outputs, inputs], { type: half });
        const codes = present(weight.parts.codes, 'codes');
        bench.memory.view.setUint8(codes.offsetBytes + 21 * present(codes.strides[0], 'stride') + 1107, 0xff);
        const out = bench.activation([tokens, outputs]);
        const x = bench.activation([tokens, inputs], 1, half);
        const rest = { bias: null, activation: 'none', accumulate: false } as const;
        await runOnGpu({ op: 'linear', out, x, weight, ...rest }, bench.memory);
        const numbers = [...bench.memory.read(out)].map((value) => Number.isFinite(value));
        expect(numbers).toEqual(Array.from({ length: tokens * outputs }, (_, i) => i % outputs !== 21));
      }
    },
  );

  // Multiprocessors share most tiles of weights of more than a slab, and have several of those of few inputs. The last tile is short.
  it.each([
    ['packed4', 20_328, 4096],
    ['packed8', 20_328, 2048],
    ['packed8', 2_100, 176],
  ] as const)('%s [%i, %i]: many tokens are given what a few are', async (name, N, K) => {
    const [perWord, few] = [name === 'packed4' ? 8 : 4, 8];
    const type: FloatType = 'bf16';
    const memory = new TestMemory(96 << 20);
    native().pinMemory(memory.memory.id);
    const tensorOf = (dtype: Tensor['dtype'], shape: readonly number[]) => memory.tensor(dtype, shape);
    const codes = tensorOf('i32', [N, K / perWord]);
    for (let i = 0; i < (N * K) / perWord; i++) {
      memory.view.setUint32(codes.offsetBytes + 4 * i, Math.imul(i + 1, 2_654_435_761) >>> 0, true);
    }
    const groups = Math.ceil(K / 64);
    const odd = new Map([
      [300 * groups, Number.POSITIVE_INFINITY],
      [700 * groups + 1, Number.NaN],
      [900 * groups + 2, -0],
    ]);
    const scales = memory.fill(
      tensorOf('bf16', [N, groups]),
      (i) => odd.get(i) ?? (1 + (i % 37) / 32) / 64 / 16 ** (name === 'packed8' ? 1 : 0),
    );
    const format = formatOf(name, type, { inputGroup: 64 });
    const weight: Weight = { format, shape: [N, K], firstRow: 0, parts: { codes, scales } };
    const bias = memory.fill(tensorOf('bf16', [N]), (i) => (i % 11) / 8);
    const x = memory.fill(
      tensorOf('bf16', [128, K]),
      (i) => (((i % K) * 7 + 3 * (Math.floor(i / K) % few)) % 13) / 8 - 0.75,
    );
    const results = tensorOf('f32', [128, N]);
    const resultsOf = async (tokens: number) => {
      const out = { ...results, shape: [tokens, N] };
      const rest = { bias, activation: 'none', accumulate: false } as const;
      await runOnGpu({ op: 'linear', weight, out, x: { ...x, shape: [tokens, K] }, ...rest }, memory);
      return memory.read(out);
    };
    const ofFew = await resultsOf(few);
    const nan = Array.from({ length: N }, (_, n) => (Number.isNaN(ofFew[n]) ? n : -1)).filter((n) => n >= 0);
    expect(nan).toEqual([300, 700]);
    for (const tokens of OWN_KERNELS_ONLY ? [] : [16, 17, 64, 65, 128]) {
      const ofMany = await resultsOf(tokens);
      let worst = 0;
      for (let i = 0; i < tokens * N; i++) {
        const [got, expected] = [ofMany[i] ?? 1e9, ofFew[i % (few * N)] ?? 0];
        if (!Object.is(got, expected)) worst = Math.max(worst, Math.abs(got - expected));
      }
      expect(worst, `${tokens} tokens`).toBeLessThan(2e-2);
    }
    memory.free();
  });
});
