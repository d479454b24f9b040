// Stored weights with damage: companions dropped, swapped, of other types and shapes, of other bytes, under other configurations.
//
// What is taken must be readable to the last code: the reference expands it, and fails at any read beside a part.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DTYPE_BITS } from '../src/checkpoint/safetensors.js';
import { openModel } from '../src/engine/open-model.js';
import { buildArchitecture, tensorList } from '../src/models/registry.js';
import { matricesOf, valuesOf } from '../test/formats/matrix-values.js';
import { tensorOf } from '../test/formats/stored-tensor.js';
import { STYLES, type Style } from '../test/formats/styles.js';
import { type TestTensor, writeSafetensors } from '../test/helpers/safetensors.js';
import { mutateJson, pick, type Random } from './fuzz-mutations.js';
import { randomFrom, randomInt } from './random.js';

const SHAPE = {
  model_type: 'llama',
  dtype: 'bfloat16',
  hidden_size: 64,
  intermediate_size: 96,
  num_attention_heads: 2,
  num_hidden_layers: 1,
  vocab_size: 8,
};
const MOST_CHANGES = 3;

type Tensor = Required<TestTensor>;
interface Original {
  readonly config: Readonly<Record<string, unknown>>;
  readonly tensors: readonly Tensor[];
}

/** Reads one damaged checkpoint, which is laid into `folder`. */
export function storedWeights(folder: string): (random: Random) => Promise<void> {
  const made = new Map<Style, Original>();
  const originalOf = (style: Style): Original => {
    const before = made.get(style);
    if (before) return before;
    const random = randomFrom(1);
    const tensors = tensorList(buildArchitecture(SHAPE, 'config.json')).flatMap(
      ({ name, shape, inBlock }) => {
        const [N = 0, K = 0] = shape;
        const values = Float64Array.from({ length: N * (K || 1) }, () => random() - 0.5);
        const isStored = inBlock && shape.length === 2;
        return isStored ? style.encode({ name, N, K, values }) : [tensorOf(name, 'BF16', shape, values)];
      },
    );
    const config = { ...SHAPE, quantization_config: style.config };
    const original = { config, tensors: tensors as readonly Tensor[] };
    made.set(style, original);
    return original;
  };
  return async (random) => {
    const original = originalOf(pick(random, STYLES));
    let tensors = [...original.tensors];
    for (let left = 1 + randomInt(random, MOST_CHANGES); left > 0; left--) tensors = changed(random, tensors);
    const { quantization_config } = original.config;
    const other = random() < 0.2 ? { quantization_config: mutateJson(random, quantization_config) } : {};
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...original.config, ...other }));
    writeSafetensors(join(folder, 'model.safetensors'), tensors);
    const opened = await openModel(folder);
    const matrices = [...matricesOf(opened).values()];
    const name = tensors.find((tensor, index) => tensor !== original.tensors[index])?.name ?? '';
    const hit = matrices.find(({ key }) => name.includes(key.replace(/\.weight$/, '')));
    for (const matrix of [hit, pick(random, matrices)]) if (matrix) valuesOf(matrix, opened.checkpoint.files);
  };
}

function changed(random: Random, tensors: readonly Tensor[]): Tensor[] {
  // A companion more often than not: most tensors of a checkpoint are plain.
  const companions = tensors.filter(({ name }) => !/norm|embed|lm_head/.test(name));
  const victim = pick(random, random() < 0.95 && companions.length > 0 ? companions : tensors);
  if (!victim) return [...tensors];
  const put = (tensor: Partial<Tensor>) =>
    tensors.map((other) => (other === victim ? { ...other, ...tensor } : other));
  switch (randomInt(random, 8)) {
    case 0:
      return tensors.filter((tensor) => tensor !== victim);
    case 1: {
      const ending = pick(random, companions).name.split('.').at(-1) ?? '';
      const name = victim.name.replace(/[^.]+$/, ending);
      return put({ name }).filter((tensor) => tensor.name !== name || !tensors.includes(tensor));
    }
    case 2:
      return put({ dtype: otherType(random, victim.dtype) });
    case 3:
      return put({ shape: otherShape(random, victim.shape) });
    case 4: {
      const { dtype, shape, data } = pick(random, tensors);
      return put({ dtype, shape, data });
    }
    case 5: {
      const rows = Math.max(1, (victim.shape[0] ?? 1) - 1);
      const [, ...rest] = victim.shape;
      const data = victim.data.subarray(0, (victim.data.length / Math.max(1, victim.shape[0] ?? 1)) * rows);
      return victim.shape.length === 0 ? [...tensors] : put({ shape: [rows, ...rest], data });
    }
    default: {
      const data = Uint8Array.from(victim.data);
      const value = pick(random, [0, 0x7f, 0x80, 0xff, randomInt(random, 256)]);
      const at = randomInt(random, data.length + 1);
      data.fill(value, at, at + 1 + randomInt(random, random() < 0.5 ? 4 : data.length + 1));
      return put({ data });
    }
  }
}

/** One of the same width. */
function otherType(random: Random, dtype: string): string {
  const same = Object.keys(DTYPE_BITS).filter((other) => DTYPE_BITS[other] === DTYPE_BITS[dtype]);
  return pick(random, same);
}

/** One of as many elements. */
function otherShape(random: Random, shape: readonly number[]): number[] {
  const count = shape.reduce((product, size) => product * size, 1);
  const step = pick(random, [1, 2, 3, 4, 8, 16]);
  const shapes = [
    [...shape].reverse(),
    [count],
    [1, ...shape],
    [...shape, 1],
    ...(count % step === 0 ? [[count / step, step]] : []),
  ];
  return pick(random, shapes);
}
