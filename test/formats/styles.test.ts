// Every way of storing is read as what it was made of: the values come back but for what its bits cannot hold.

import { describe, expect, it } from 'vitest';
import { openModel } from '../../src/engine/open-model.js';
import { modelFolder } from '../helpers/fixtures.js';
import { matricesOf, valuesOf } from './matrix-values.js';
import { type StoredAsOptions, storedAs } from './stored-as.js';
import { BLOCKS, STYLES, type Style } from './styles.js';

/** Checks every matrix against the plain fixture, and returns the formats of blocks. */
async function compare(fixture: string, style: Style, options: StoredAsOptions = {}): Promise<Set<string>> {
  const plain = await openModel(modelFolder(fixture));
  const stored = await openModel(await storedAs(fixture, style, { blocks: 1, ...options }));
  expect(stored.warnings).toEqual([]);
  const expected = matricesOf(plain);
  const formats = new Set<string>();
  for (const [name, matrix] of matricesOf(stored)) {
    if (matrix.format.name === 'dense') continue;
    const before = expected.get(name);
    if (!before) throw new Error(`the fixture has no ${name}`);
    const values = valuesOf(before, plain.checkpoint.files);
    const actual = valuesOf(matrix, stored.checkpoint.files);
    expect(lost(actual, values), `${name} as ${matrix.format.name}`).toBeLessThan(style.error);
    formats.add(matrix.format.name);
  }
  return formats;
}

/** Root mean square of the difference, of that of what was wanted. */
function lost(actual: Float64Array, wanted: Float64Array): number {
  let [difference, size] = [0, 0];
  for (const [i, value] of wanted.entries()) {
    difference += ((actual[i] ?? Number.NaN) - value) ** 2;
    size += value ** 2;
  }
  return Math.sqrt(difference / size);
}

describe('a llama', () => {
  it.each(STYLES.map((style) => [style.label, style] as const))('%s', async (_label, style) => {
    expect((await compare('llama', style)).size).toBe(1);
  });
});

describe('experts, one by one and as one tensor', () => {
  const some = STYLES.filter(({ label }) =>
    /fp8, b|mxfp8|FP4|4 bits in groups|AWQ|one scale|NF4/.test(label),
  );
  it.each(some.map((style) => [style.label, style] as const))('%s', async (_label, style) => {
    expect((await compare('mixtral', style)).size).toBe(1);
    // Outputs of AWQ lie side by side, and codes of bitsandbytes are flat: nobody writes those for several experts.
    if (!/AWQ|bitsandbytes/.test(style.label))
      expect((await compare('mixtral', style, { fused: true })).size).toBe(1);
  });

  it(BLOCKS.label, async () => {
    expect(await compare('mixtral', BLOCKS, { fused: true })).toEqual(new Set(['fp4']));
  });
});

it('a quantised head', async () => {
  const style = STYLES.find(({ label }) => label === 'GPTQ of 4 bits');
  if (!style) throw new Error('no such style');
  const folder = await storedAs('llama', style, { head: true, config: { ...style.config, lm_head: true } });
  const { model } = await openModel(folder);
  expect(model.head.projection.format.name).toBe('gptq');
});
