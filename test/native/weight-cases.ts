// Cases of products with stored weights for any device, against float64: every format, short blocks, odd groups and ends.

import { it } from 'vitest';
import type { FloatType } from '../../offload/port/dtype.js';
import { formatOf } from '../../offload/port/formats.js';
import { heads as inHeads } from '../../offload/port/tensor.js';
import { choices } from './expert-cases.js';
import { buildWeight, canBeCut, fitted, WEIGHT_KINDS, type WeightKind } from './weight-builder.js';
import { ACTIVATIONS, check, type KernelDevice } from './workbench.js';

/** [tokens, outputs, inputs]; what a kind's format cannot hold is rounded up. */
const SHAPES = [
  [0, 8, 8],
  [1, 1, 1],
  [1, 5, 0],
  [1, 19, 700],
  [1, 66, 96],
  [2, 11, 65],
  [3, 5, 2113],
  [7, 9, 1100],
  [29, 70, 129],
  [260, 3, 37],
] as const;

/** [tokens, heads, rows of a head, those that are taken, inputs, whether transposed] */
const HEADS = [
  [1, 3, 24, 16, 96, true],
  [1, 3, 24, 8, 96, false],
  [9, 2, 40, 32, 160, true],
  [70, 2, 16, 11, 64, false],
  [70, 2, 16, 16, 64, true],
  [2, 1, 8, 5, 700, true],
  [5, 4, 8, 7, 33, false],
  [0, 2, 8, 8, 32, false],
] as const;

/** [tokens, experts, experts of each token, outputs, inputs] */
const EXPERTS = [
  [1, 8, 2, 9, 700],
  [4, 4, 2, 20, 65],
  [90, 3, 2, 5, 70],
] as const;

const TYPES: readonly FloatType[] = ['bf16', 'f32', 'f16'];

/** The weights begin in the middle of their scales where a format can be cut. */
const firstRowOf = (kind: WeightKind, index: number) => (canBeCut(kind) ? [0, 3, 16][index % 3] : 0) ?? 0;

export function weightCases(device: KernelDevice): void {
  for (const awkward of device.placings) {
    const placed = awkward ? 'awkward' : 'aligned';

    it.each(WEIGHT_KINDS)(`linear with weights in $label, ${placed}`, async (kind) => {
      device.use();
      for (const [index, [tokens, ...size]] of SHAPES.entries()) {
        const [outputs, inputs] = fitted(kind, size);
        const bench = device.workbench(index, awkward);
        const type = TYPES[index % 3] ?? 'bf16';
        const weight = buildWeight(bench, kind, [outputs, inputs], {
          type,
          firstRow: firstRowOf(kind, index),
        });
        const bias = index % 4 === 0 ? bench.vector('bf16', outputs) : null;
        const activation = ACTIVATIONS[index % ACTIVATIONS.length] ?? 'none';
        const x = device.productInput(bench, type, [tokens, inputs]);
        const out = bench.activation([tokens, outputs]);
        const op = { op: 'linear', out, x, weight, bias, activation, accumulate: index % 2 === 1 } as const;
        await check(device, bench, op, device.productTolerance(type));
      }
    });

    it.each(WEIGHT_KINDS)(`head_linear with weights in $label, ${placed}`, async (kind) => {
      device.use();
      for (const [index, [tokens, heads, headRows, ...rest]] of HEADS.entries()) {
        const [taken, inputs, transposed] = rest;
        const size = fitted(kind, [heads * headRows, inputs]);
        // Heads have whole shares of what a format can hold.
        if (size[0] !== heads * headRows) continue;
        const bench = device.workbench(index, awkward);
        const type = TYPES[index % 3] ?? 'bf16';
        const weight = buildWeight(bench, kind, size, { type, firstRow: firstRowOf(kind, index) });
        const [from, to] = transposed ? [taken, size[1]] : [size[1], taken];
        const flat = device.productInput(bench, type, [tokens, heads * from]);
        const out = bench.activation([tokens, heads, to]);
        const part = { headRows, firstRow: headRows - taken, transposed };
        const op = { op: 'head_linear', out, x: inHeads(flat, heads, from), weight, ...part } as const;
        await check(device, bench, op, device.productTolerance(type));
      }
    });

    it.each(WEIGHT_KINDS)(`expert_linear with weights in $label, ${placed}`, async (kind) => {
      device.use();
      for (const [index, [tokens, experts, each, ...size]] of EXPERTS.entries()) {
        const [outputs, inputs] = fitted(kind, size);
        const bench = device.workbench(index, awkward);
        const type = TYPES[index % 3] ?? 'bf16';
        const firstRow = firstRowOf(kind, index + 1);
        const weights = Array.from({ length: experts }, () =>
          buildWeight(bench, kind, [outputs, inputs], { type, firstRow }),
        );
        const chosen = choices(bench, tokens, each, experts);
        const out = bench.activation([tokens * each, outputs]);
        const x = device.productInput(bench, type, [index % 2 === 0 ? tokens : tokens * each, inputs]);
        const op = { op: 'expert_linear', out, x, experts: chosen, weights } as const;
        await check(device, bench, op, device.productTolerance(type));
      }
    });
  }

  it.each([
    ['gptq of 4 bits, scattered groups', false],
    ['packed4, zeros and scattered groups', true],
    ['table4, nested', true],
  ] as const)('expert_linear where experts differ as they may, %s', async (label, firstHas) => {
    device.use();
    const kind = WEIGHT_KINDS.find((other) => other.label === label);
    if (!kind) throw new Error(label);
    for (const [index, [tokens, experts, each, ...size]] of EXPERTS.entries()) {
      const [outputs, inputs] = fitted(kind, size);
      const bench = device.workbench(index);
      const weights = Array.from({ length: experts }, (_, e) => {
        const weight = buildWeight(bench, kind, [outputs, inputs], { type: 'bf16' });
        const { groups, ...others } = weight.parts;
        if (groups) return (e % 2 === 0) === firstHas ? weight : { ...weight, parts: others };
        const { name, type, ...numbers } = weight.format;
        return {
          ...weight,
          format: formatOf(name, type, { ...numbers, nestedOffset: Math.fround(e / 9 - 0.2) }),
        };
      });
      const chosen = choices(bench, tokens, each, experts);
      const out = bench.activation([tokens * each, outputs]);
      const x = device.productInput(bench, 'bf16', [tokens, inputs]);
      const op = { op: 'expert_linear', out, x, experts: chosen, weights } as const;
      await check(device, bench, op, device.productTolerance('bf16'));
    }
  });
}
