// Experts of many choices on a GPU: grouped by expert and multiplied in tiles, against float64 and bit for bit.

import { describe, expect, it } from 'vitest';
import { encodeCopy, encodeOp } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/port/native.js';
import { denseWeight } from '../../offload/port/weights.js';
import { checkOnGpu, gpuBench, gpuStream, HAS_GPU, relocated, rowsOf, runOnGpu } from './cuda-device.js';
import { choices } from './expert-cases.js';

/**
 * [tokens, experts, experts of each token, outputs, inputs]: tiles of 16, 32, 64 and 128 choices; part of a tile of
 * columns, several, and more than are computed at once; inputs that end within a step, and at its end.
 */
const SHAPES = [
  [9, 1, 1, 8, 8],
  [10, 64, 8, 24, 72],
  [24, 4, 2, 130, 264],
  [31, 5, 2, 33, 136],
  [30, 3, 2, 1100, 64],
  [90, 3, 1, 256, 40],
  [160, 4, 2, 136, 256],
  [270, 3, 3, 128, 48],
  [700, 5, 1, 40, 200],
] as const;

/** f32 inputs are two halves, of which 22 and 16 bits count; tensor cores cut off what their sums cannot hold. */
const TOLERANCE: Readonly<Record<string, number>> = { f16: 4e-6, bf16: 2e-5 };
const ROUNDED: Readonly<Record<string, number>> = { f16: 2e-3, bf16: 1e-2 };

describe.skipIf(!HAS_GPU).each(['f16', 'bf16'] as const)('CUDA: choices by expert, %s', (half) => {
  it('are those of float64, whoever chooses what', async () => {
    for (const [tokens, experts, each, outputs, inputs] of SHAPES) {
      const bench = gpuBench(tokens, false);
      const weights = bench.weights(half, experts, [outputs, inputs]);
      const tables = [
        choices(bench, tokens, each, experts),
        // All to the same experts; the others have none.
        bench.table(Array.from({ length: tokens }, () => [...Array(each).keys()])),
      ];
      for (const table of tables) {
        for (const [from, to] of [
          ['f32', 'f32'],
          [half, 'f32'],
          ['f32', half],
        ] as const) {
          // A row for every choice, or one that all choices of a token read.
          const x = bench.activation([table === tables[0] ? tokens : tokens * each, inputs], 1, from);
          const out = bench.activation([tokens * each, outputs], 1, to);
          const op = {
            op: 'expert_linear',
            out,
            x,
            experts: table,
            weights: weights.map((weight) => denseWeight(weight)),
          } as const;
          // Inputs of a result that is rounded are rounded as well.
          await checkOnGpu(bench, op, from === to || to === 'f32' ? TOLERANCE[half] : ROUNDED[half]);
        }
      }
    }
  });

  it('do not depend on the others, nor on how many there are', async () => {
    const [tokens, experts, each, outputs, inputs] = [300, 3, 2, 136, 264];
    for (const from of ['f32', half] as const) {
      const bench = gpuBench(5, false);
      const weights = bench.weights(half, experts, [outputs, inputs]);
      const table = choices(bench, tokens, each, experts);
      const x = bench.activation([tokens, inputs], 1, from);
      const out = bench.activation([tokens * each, outputs]);
      const run = (first: number, count: number) =>
        runOnGpu(
          {
            op: 'expert_linear',
            out: rowsOf(out, first * each, count * each),
            x: rowsOf(x, first, count),
            experts: rowsOf(table, first, count),
            weights: weights.map((weight) => denseWeight(weight)),
          },
          bench.memory,
        );
      await run(0, tokens);
      const together = bench.memory.read(out);
      for (const [first, count] of [
        [0, 5],
        [17, 20],
        [100, 60],
        [3, 150],
      ] as const) {
        bench.memory.fill(rowsOf(out, first * each, count * each), () => 0);
        await run(first, count);
        expect(bench.memory.read(out), `${count} from ${from}`).toEqual(together);
      }
    }
  });

  it('the same inputs for two products are converted once, and again when they change', async () => {
    const [tokens, experts, width] = [40, 4, 64];
    const bench = gpuBench(3, false);
    const table = choices(bench, tokens, 1, experts);
    const matrices = () => bench.weights(half, experts, [width, width]);
    const rows = () => bench.activation([tokens, width]);
    const [x, first, second, third] = [rows(), rows(), rows(), rows()];
    const [some, others] = [matrices(), matrices()];
    const ops = [
      { out: first, weights: some.map((w) => denseWeight(w)) },
      { out: second, weights: others.map((w) => denseWeight(w)) },
      { out: x, weights: some.map((w) => denseWeight(w)) },
      { out: third, weights: others.map((w) => denseWeight(w)) },
    ].map((op) => ({ ...op, op: 'expert_linear', x, experts: table }) as const);
    const { view } = bench.memory;
    const before = new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
    for (const op of ops) await runOnGpu(op, bench.memory);
    const apart = [first, second, x, third].map((tensor) => bench.memory.read(tensor));
    new Uint8Array(view.buffer, view.byteOffset, view.byteLength).set(before);
    // One after the other without anything between.
    const { memory } = bench.memory;
    const there = new (native().NativeDeviceMemory)(0, memory.sizeBytes);
    const queue = gpuStream();
    queue.launch(encodeCopy(there, 0, memory, 0, there.sizeBytes));
    for (const op of ops) queue.launch(encodeOp(relocated(op, there)));
    queue.launch(encodeCopy(memory, 0, there, 0, there.sizeBytes));
    await queue.record().promise();
    there.free();
    expect([first, second, x, third].map((tensor) => bench.memory.read(tensor))).toEqual(apart);
  });

  it('read no expert that nobody chose', async () => {
    const bench = gpuBench(8, false);
    const weights = bench.weights(half, 4, [40, 64]);
    const experts = bench.table(Array.from({ length: 12 }, (_, i) => [i % 2 ? 3 : 1]));
    for (const unused of [0, 2]) {
      const weight = weights[unused];
      if (weight) bench.memory.fill(weight, () => Number.NaN);
    }
    const [x, out] = [bench.activation([12, 64]), bench.activation([12, 40])];
    await checkOnGpu(
      bench,
      { op: 'expert_linear', out, x, experts, weights: weights.map((weight) => denseWeight(weight)) },
      TOLERANCE[half],
    );
  });
});
