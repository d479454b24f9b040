// Falcon's ALiBi beyond 256 tokens, where rounding it to bfloat16 gives neighbouring positions the same bias.

import { expect, test } from 'vitest';
import { ALL_DRAM, lastLogits } from './run-model.js';

/** By transformers 5.17 in float32 with its default attention: the first 16 logits after a prompt of so many tokens. */
const EXPECTED: readonly (readonly [tokens: number, logits: readonly number[]])[] = [
  [
    300,
    [
      0.78755, 0.4533, 1.25888, -1.52632, 0.10008, 0.06747, 1.47432, 1.65309, -0.48195, 2.46118, -0.49268,
      -0.51872, -1.39656, -1.48019, -2.511, -0.37815,
    ],
  ],
  [
    700,
    [
      3.33067, 1.25847, 1.99143, -2.47826, 2.22488, -1.02627, 0.87297, -2.39271, -0.58281, 2.70108, 0.50656,
      -2.73443, -0.01842, -0.75451, -1.86169, -2.45765,
    ],
  ],
  [
    1000,
    [
      2.53855, 1.25551, 2.97772, -1.50972, 1.85322, -3.00303, -0.94605, -3.05479, -1.42885, 1.62641, 0.31559,
      -1.51799, 3.07081, -0.34512, -2.29479, 0.7256,
    ],
  ],
];

test('long prompts of a Falcon with ALiBi have the logits of the reference', async () => {
  const prompts = EXPECTED.map(([tokens]) =>
    Array.from({ length: tokens }, (_, i) => 4 + ((i * i * 7 + i * 13) % 380)),
  );
  const rows = await lastLogits('falcon-alibi-style', prompts, ALL_DRAM);
  for (const [index, [, expected]] of EXPECTED.entries()) {
    const differences = expected.map((value, id) => Math.abs(value - (rows[index]?.[id] ?? Number.NaN)));
    expect(Math.max(...differences)).toBeLessThan(2e-3);
  }
});
