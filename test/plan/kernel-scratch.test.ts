// What GPU kernels allocate for themselves: a plan's bound against what each operation takes, as streams provide it.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { encodeOp, joinEncoded } from '../../offload/backends/op-encoding.js';
import { present } from '../../offload/errors.js';
import { deviceActivationType } from '../../offload/model/activation-type.js';
import { ForwardWalk } from '../../offload/model/forward-walk.js';
import { KV_CHOICES, kvTypeOf } from '../../offload/model/kv-type.js';
import type { MatrixSpec } from '../../offload/model/layout.js';
import type { ModelSpec } from '../../offload/model/model.js';
import { cudaCosts } from '../../offload/plan/device-costs.js';
import { kernelScratch, type ScratchWorkload } from '../../offload/plan/kernel-scratch.js';
import { DTYPE_BYTES, type FloatType } from '../../offload/port/dtype.js';
import { formatOf, isDense } from '../../offload/port/formats.js';
import { native } from '../../offload/port/native.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import { MiB } from '../../offload/units.js';
import { shapeModel } from '../../src/engine/shape.js';
import type { ShapeType } from '../../src/engine/shape-tensors.js';
import { modelFolder } from '../helpers/fixtures.js';
import { SMALL } from '../models/small-configs.js';

function model(name: string, type?: ShapeType) {
  const path = `configs/models/${name}.json`;
  return shapeModel(JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>, path, type).model;
}

it('of products holds what the library takes, and biases that lie badly', () => {
  const opt = model('opt-6.7b');
  const scratch = kernelScratch(opt, { tokens: 2048, contextTokens: 2048, logitRows: 8, drawnRows: 0 });
  // Activations are of the weights' type, so that no product needs its inputs in another; fc1 has 16384 outputs.
  expect(scratch.inputsBytes).toBe(2 * 16384);
  expect(scratch.bytes).toBe(32 * MiB + scratch.inputsBytes + scratch.partialsBytes);
});

it('of weights in 8 and 4 bits holds some rows of the largest as values, and all of a small one', () => {
  const workload = { tokens: 2048, contextTokens: 2048, logitRows: 8, drawnRows: 0 };
  for (const type of ['int4', 'int8', 'fp8'] as const) {
    // 16384 outputs of 4096 inputs, or as many the other way round: 64 MiB of values of 16 bits are half of them.
    expect(kernelScratch(model('opt-6.7b', type), workload).weightsBytes).toBe(64 * MiB);
    // 8192 outputs of 2048 inputs.
    expect(kernelScratch(model('opt-1.3b', type), workload).weightsBytes).toBe(2 * 8192 * 2048);
  }
  expect(kernelScratch(model('opt-6.7b'), workload).weightsBytes).toBe(0);
});

it('of attention holds the parts of the longest context of as many tokens as leave the device idle', () => {
  const opt = model('opt-6.7b');
  const scratch = kernelScratch(opt, { tokens: 2048, contextTokens: 2048, logitRows: 8, drawnRows: 0 });
  // 32 heads of 128 values: 15 tokens make 480 blocks, 8 splits each.
  expect(scratch.partialsBytes).toBe(15 * 32 * 8 * (2 + 128) * 4);
});

it.each(['bfloat16', 'float32'] as const)(
  'of latent attention in %s holds parts of as many tokens as run at once',
  (type) => {
    const deepseek = model('deepseek-v3', type);
    const scratch = (tokens: number, contextTokens: number) =>
      kernelScratch(deepseek, { tokens, contextTokens, logitRows: 8, drawnRows: 0 }).partialsBytes;
    // 128 heads of 512 values, two parts to a context of 4096, four to one of 8192.
    const partBytes = 128 * (2 + 512) * 4;
    expect(scratch(16, 4096)).toBe(15 * 15 * 2 * partBytes);
    expect(scratch(64, 4096)).toBe(255 * 2 * partBytes);
    expect(scratch(64, 8192)).toBe(255 * 2 * partBytes);
  },
);

it('of layers with a state holds chunks of a prompt, as many at a time as 64 MiB take', () => {
  const qwen = model('qwen3-next-80b-a3b');
  const bytesOf = (tokens: number) =>
    kernelScratch(qwen, { tokens, contextTokens: 100, logitRows: 8, drawnRows: 0 }).partialsBytes;
  // Two matrices of ten tiles each in two parts, and scales, of 32 heads.
  const chunk = 32 * (2 * 10 * 2 * 512 + (3 * 64 + 4) * 4);
  expect(bytesOf(4096)).toBe(Math.floor((64 * MiB) / chunk) * chunk);
  // Each of 39 sequences may begin a chunk, one of them with two tokens.
  expect(bytesOf(40)).toBe(39 * chunk);
});

it('of the head holds both halves of more rows than a micro-batch has tokens, or logits that are drawn from', () => {
  const opt = model('opt-6.7b');
  const scratch = kernelScratch(opt, { tokens: 4, contextTokens: 100, logitRows: 1000, drawnRows: 4 });
  expect(scratch.inputsBytes).toBe(2 * 2 * 1000 * 4096);
  // No context is cut. Each row has a state, two histograms of 2048 digits, sums of 13 parts of 4096 tokens, and its logits.
  expect(scratch.partialsBytes).toBe(4 * (64 + 2 * 2048 * 12 + 13 * 16 + 4 * opt.vocabSize));
});

it('of a mixture holds what its router takes in rounded, and the choices by expert', () => {
  const tokens = 2048;
  const workload = { tokens, contextTokens: 100, logitRows: 8, drawnRows: 0 };
  const scratch = kernelScratch(model('mixtral-8x7b'), workload);
  expect(scratch.inputsBytes).toBe(2 * tokens * 4096);
  // Choices, and a table of tiles of 128 of them behind.
  expect(scratch.groupsBytes).toBe(4 * 2 * tokens + 16 * ((2 * tokens) / 128 + 8));
  expect(kernelScratch(model('opt-6.7b'), workload).groupsBytes).toBe(0);
});

it('of a mixture in f32 holds both halves of the choices', () => {
  const tokens = 2048;
  const workload = { tokens, contextTokens: 100, logitRows: 8, drawnRows: 0, activationType: 'f32' } as const;
  const scratch = kernelScratch(model('mixtral-8x7b'), workload);
  // Each token goes to two experts, whose last product takes 14336 inputs: rounded to 16 bits, and what that left.
  expect(scratch.inputsBytes).toBe(2 * 2 * 2 * tokens * 14336);
});

it.each(['float32', undefined])('is known for every type of keys and values, computed in %s', (computed) => {
  const workload = { tokens: 2048, contextTokens: 4096, logitRows: 8, drawnRows: 8 };
  const activationType = computed === undefined ? {} : ({ activationType: 'f32' } as const);
  const latent = shapeModel({ ...SMALL.deepseek_v3 }, 'config.json', 'bfloat16').model;
  for (const spec of [model('opt-6.7b'), latent]) {
    for (const kvType of KV_CHOICES.map(kvTypeOf)) {
      const types = { ...activationType, ...(kvType === undefined ? {} : { kvType }) };
      const { bytes } = kernelScratch(spec, { ...workload, ...types });
      expect(bytes, `${spec.architecture} ${kvType}`).toBeGreaterThan(0);
    }
  }
});

it('is stated with its parts', () => {
  const [scratch, rounding, code] = cudaCosts(model('bloom-176b'), {
    tokens: 256,
    contextTokens: 4096,
    logitRows: 8,
    drawnRows: 8,
  });
  expect(scratch?.reason).toContain('256 tokens');
  expect(rounding?.bytes).toBe(18 * 2 * MiB);
  expect([scratch, rounding, code].every((term) => term?.tier === 'gpu')).toBe(true);
});

describe('the bound is what the largest operation within reach takes', () => {
  const workload: ScratchWorkload = { tokens: 300, contextTokens: 1500, logitRows: 40, drawnRows: 3 };
  // On both sides of every number at which operations go another way, for the small configurations.
  const tokens = [1, 2, 3, 4, 8, 9, 15, 16, 17, 25, 26, 40, 49, 50, 85, 86, 127, 128, 129, 130, 256, 300];
  const contexts = [1, 256, 257, 1024, 1500];

  /** Uses summed as a plan sums them, each the most of all operations. */
  function taken(operations: readonly Op[]) {
    const words = joinEncoded(operations.map((op) => encodeOp(op).slice()));
    const { inputs, rests, sums, bias, choices, weights, partials } = native().cudaScratchBytes(words);
    return {
      inputsBytes: inputs + rests + sums + bias,
      groupsBytes: choices,
      weightsBytes: weights,
      partialsBytes: partials,
    };
  }

  function heard(spec: ModelSpec, go: (walk: ForwardWalk) => void): Op[] {
    const operations: Op[] = [];
    const activationType = deviceActivationType(spec);
    const types = { activationType, kvType: activationType };
    go(new ForwardWalk(spec, types, (op) => operations.push(misplaced(op))));
    return operations;
  }

  /** Weights of a checkpoint lie anywhere. */
  function misplaced(op: Op): Op {
    if (op.op !== 'linear') return op;
    const { x } = op;
    // Inputs always lie well, so that only those of stored weights are assumed not to.
    const inputs = isDense(op.weight.format)
      ? x
      : { ...x, offsetBytes: x.offsetBytes + DTYPE_BYTES[x.dtype] };
    return { ...op, x: inputs, ...(op.bias === null ? {} : { bias: { ...op.bias, offsetBytes: 2 } }) };
  }

  /** As many tokens in several numbers of sequences, and contexts. */
  function spread(op: Op, count: number): Op[] {
    if (op.op !== 'attention' && op.op !== 'state_scan') return [op];
    const sequences = [1, 2, 3, 8, 11, count - 1, count].filter((some) => some > 0 && some <= count);
    return sequences.flatMap((some): Op[] => {
      const rows: Tensor = { ...op.tables.sequences, shape: [some, 4] };
      if (op.op === 'state_scan') {
        const slots: Tensor = { ...op.tables.slots, shape: [some] };
        return [{ ...op, tables: { sequences: rows, slots } }];
      }
      const { tables } = op;
      return contexts.map((maxContextTokens) => ({
        ...op,
        tables: { ...tables, sequences: rows, maxContextTokens },
      }));
    });
  }

  /** A block of each kind. */
  function kindsOfBlocks(spec: ModelSpec): Iterable<number> {
    const last = new Map<string, number>();
    for (const index of spec.blocks.keys()) {
      const operations = heard(spec, (walk) => walk.block(index, 1));
      last.set(operations.map((op) => encodeOp(op).join()).join(';'), index);
    }
    return last.values();
  }

  function largest(spec: ModelSpec) {
    const all: Op[] = [];
    const kinds = [...kindsOfBlocks(spec)];
    for (const count of tokens) {
      const blocks = heard(spec, (walk) => {
        walk.embed(count);
        for (const index of kinds) walk.block(index, count);
      });
      all.push(...blocks.flatMap((op) => spread(op, count)));
      if (count > workload.logitRows) continue;
      const head = heard(spec, (walk) => {
        walk.headInput(count);
        walk.headPiece(spec.head.projection, count);
      });
      all.push(...head);
    }
    all.push(...heard(spec, (walk) => walk.draw(workload.drawnRows)));
    return taken(all);
  }

  /** A checkpoint whose blocks' matrices are of several types, but those of experts of one. */
  function mixed(spec: ModelSpec): ModelSpec {
    const types: readonly FloatType[] = ['f16', 'bf16', 'f32'];
    const retyped = (matrices: ModelSpec['fixed']['matrices']) =>
      matrices.map((matrix, index): MatrixSpec => {
        const dtype = types[/experts\.\d/.test(matrix.key) ? 0 : index % 3] ?? 'f32';
        const codes = present(matrix.parts.codes, 'values');
        return {
          ...matrix,
          format: formatOf(matrix.format.name, dtype),
          parts: { codes: { ...codes, dtype } },
        };
      });
    return { ...spec, blocks: spec.blocks.map((block) => ({ ...block, matrices: retyped(block.matrices) })) };
  }

  /** One of each family's cases, another from family to family; all of them with ZI_TESTS=all. */
  function some<T>(all: readonly T[], ofFamily: number): T[] {
    const isChosen = (index: number) => index % ofFamily === Math.floor(index / ofFamily) % ofFamily;
    return all.filter((_, index) => process.env.ZI_TESTS === 'all' || isChosen(index));
  }

  const cases = Object.keys(SMALL).flatMap((family) =>
    [
      ...(['float16', 'bfloat16', 'float32'] as const).map((type) => ({ family, type, retype: false })),
      { family, type: 'float16' as const, retype: true },
    ].map((one) => ({ ...one, of: one.retype ? 'several types' : one.type })),
  );

  const stored = Object.keys(SMALL).flatMap((family) =>
    (['int8', 'int4', 'fp8'] as const).map((type) => ({ family, type })),
  );

  it.each(some(stored, 3))('$family in $type', ({ family, type }) => {
    const { model: spec } = shapeModel({ ...SMALL[family] }, 'config.json', type);
    const { inputsBytes, groupsBytes, weightsBytes, partialsBytes } = kernelScratch(spec, workload);
    expect({ inputsBytes, groupsBytes, weightsBytes, partialsBytes }).toEqual(largest(spec));
  });

  // Few heads, all of whose chunks fit, and so many that they go in rounds.
  it.each([
    ['qwen3_next', { linear_key_head_dim: 32 }],
    ['qwen3_next', { linear_key_head_dim: 32, linear_num_key_heads: 32, linear_num_value_heads: 64 }],
    ['nemotron_h', { ssm_state_size: 32 }],
  ])('%s, whose states take %j', (family, sizes) => {
    const path = `${modelFolder(family)}/config.json`;
    const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    const { model: spec } = shapeModel({ ...config, ...sizes }, path);
    const { inputsBytes, groupsBytes, weightsBytes, partialsBytes } = kernelScratch(spec, workload);
    expect({ inputsBytes, groupsBytes, weightsBytes, partialsBytes }).toEqual(largest(spec));
    expect(partialsBytes).toBeGreaterThan(MiB);
  });

  it.each(some(cases, 4))('$family of $of', ({ family, type, retype }) => {
    const config = { ...SMALL[family], torch_dtype: type };
    const { model: spec } = shapeModel(config, 'config.json');
    const one = retype ? mixed(spec) : spec;
    const { inputsBytes, groupsBytes, weightsBytes, partialsBytes } = kernelScratch(one, workload);
    expect({ inputsBytes, groupsBytes, weightsBytes, partialsBytes }).toEqual(largest(one));
  });
});
