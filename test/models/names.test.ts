// Checkpoints as the hub has them: with the model's prefix or without, with buffers that are no parameters, tied heads.

import { describe, expect, it } from 'vitest';
import { elementCount } from '../../offload/index.js';
import type { Checkpoint, StoredTensor } from '../../src/checkpoint/checkpoint.js';
import type { ArchitectureModel } from '../../src/models/architecture.js';
import { bindModel } from '../../src/models/binding.js';
import { tensorList } from '../../src/models/registry.js';
import { build, SMALL } from './small-configs.js';

type Named = {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype?: 'F16' | 'I64';
};

function checkpointOf(stored: readonly Named[]): Checkpoint {
  let fileOffset = 0;
  const tensors = new Map<string, StoredTensor>();
  for (const { name, shape, dtype = 'BF16' } of stored) {
    const sizeBytes = elementCount(shape) * (dtype === 'I64' ? 8 : 2);
    tensors.set(name, { name, dtype, shape, fileIndex: 0, fileOffset, sizeBytes });
    fileOffset += sizeBytes;
  }
  return {
    folder: '/checkpoint',
    config: {},
    generationConfig: {},
    files: ['/checkpoint/model.safetensors'],
    fileStates: [],
    totalBytes: fileOffset,
    tensors,
    unfound: new Map(),
    repeated: new Map(),
    find: (name) => tensors.get(name),
  };
}

/** The model's tensors, named by `rename`. */
function renamed(model: ArchitectureModel, rename: (name: string) => string): Named[] {
  return tensorList(model).map(({ name, shape, inBlock }) => ({
    name: rename(name),
    shape,
    ...(inBlock?.integersBelow === undefined ? {} : { dtype: 'I64' }),
  }));
}

const BUFFERS: Readonly<Record<string, readonly string[]>> = {
  gpt2: ['h.0.attn.bias', 'h.0.attn.masked_bias'],
  gptj: ['transformer.h.0.attn.bias', 'transformer.h.0.attn.masked_bias'],
  gpt_neo: ['transformer.h.0.attn.attention.bias', 'transformer.h.0.attn.attention.masked_bias'],
  gpt_neox: ['gpt_neox.layers.0.attention.bias', 'gpt_neox.layers.0.attention.rotary_emb.inv_freq'],
  llama: ['model.layers.0.self_attn.rotary_emb.inv_freq'],
};

describe.each(Object.keys(SMALL))('%s', (family) => {
  const model = build(family);

  it('binds with its prefix', () => {
    const { model: bound } = bindModel(model, checkpointOf(renamed(model, (name) => name)));
    expect(bound.blocks).toHaveLength(model.blockCount);
  });

  it('binds without a prefix, and with every other prefix it knows', () => {
    const [usual = '', ...others] = model.prefixes;
    for (const prefix of ['', ...others]) {
      const rename = (name: string) => (name.startsWith(usual) ? prefix + name.slice(usual.length) : name);
      expect(() => bindModel(model, checkpointOf(renamed(model, rename)))).not.toThrow();
    }
  });

  it('ignores buffers that are no parameters', () => {
    const buffers = (BUFFERS[family] ?? []).map((name) => ({ name, shape: [1, 1, 8, 8] }));
    const stored = [...buffers, ...renamed(model, (name) => name)];
    expect(() => bindModel(model, checkpointOf(stored))).not.toThrow();
  });

  it('takes a tied head from the embedding', () => {
    const tied = build(family, { tie_word_embeddings: true });
    const alone = renamed(tied, (name) => name);
    const { model: bound } = bindModel(tied, checkpointOf(alone));
    expect(bound.head.projection.parts.codes?.extent).toEqual(bound.tables[0]?.extent);
  });

  it('takes a tied embedding from the head, where the checkpoint has only that', () => {
    const tied = build(family, { tie_word_embeddings: true });
    const [table] = tied.tables;
    for (const prefix of [...tied.prefixes, '']) {
      const alone = renamed(tied, (name) => name).filter(({ name }) => !name.endsWith(table?.name ?? ''));
      const head = { ...tied.head.projection, name: `${prefix}${tied.head.projection.name}` };
      const { model: bound, tiedPair } = bindModel(tied, checkpointOf([head, ...alone]));
      expect(bound.tables[0]?.extent).toEqual(bound.head.projection.parts.codes?.extent);
      expect(bound.tables[0]?.extent.fileOffset).toBe(0);
      expect(tiedPair).toBeUndefined();
    }
  });

  it('uses both as they are stored, where a checkpoint of a tied model has both', () => {
    const tied = build(family, { tie_word_embeddings: true });
    const stored = checkpointOf([...renamed(tied, (name) => name), tied.head.projection]);
    const { model: bound, tiedPair, unused } = bindModel(tied, stored);
    expect(bound.head.projection.parts.codes?.extent).not.toEqual(bound.tables[0]?.extent);
    expect(tiedPair?.map(({ fileOffset }) => fileOffset)).toEqual([
      bound.tables[0]?.extent.fileOffset,
      bound.head.projection.parts.codes?.extent.fileOffset,
    ]);
    expect(unused).toEqual([]);
  });

  it('lacks its embedding where neither is stored, and where they are not tied', () => {
    for (const tie of [true, false]) {
      const model = build(family, { tie_word_embeddings: tie });
      const [table] = model.tables;
      const rest = renamed(model, (name) => name).filter(({ name }) => !name.endsWith(table?.name ?? ''));
      expect(() => bindModel(model, checkpointOf(rest))).toThrow(/has no tensor .*which .* needs/);
    }
  });

  it('says what is missing in a sentence that ends, whatever the configuration holds', () => {
    const stored = checkpointOf([]);
    const config = { ...stored.config, architectures: ['long'.repeat(2000)] };
    let message = '';
    try {
      bindModel(model, { ...stored, config });
    } catch (error) {
      message = String(error);
    }
    expect(message).toMatch(/has no tensor .* needs/);
    expect(message.length).toBeLessThan(800);
  });

  it('reads a head of its own where it is not tied', () => {
    const own = build(family, { tie_word_embeddings: false });
    const { model: bound } = bindModel(own, checkpointOf(renamed(own, (name) => name)));
    expect(bound.head.projection.parts.codes?.extent).not.toEqual(bound.tables[0]?.extent);
  });
});

/** Gate, multiplied and last matrix of one expert, as families call them. */
const PART = /^(.*\.experts\.)(\d+)\.(?:(gate_proj|w1)|(up_proj|w3)|(?:down_proj|w2))\.weight$/;
const MIXTURES = Object.keys(SMALL).filter((family) =>
  tensorList(build(family)).some(({ name }) => PART.exec(name)?.[3]),
);

/** All experts of each layer in two tensors, whose names begin with `pathOf` what those of one do. */
function fusedTensors(experts: readonly Named[], pathOf: (own: string) => string): Named[] {
  return experts.flatMap(({ name, shape: [rows = 0, inputs = 0] }) => {
    const [, own = '', index, gate] = PART.exec(name) ?? [];
    if (!gate || index !== '0') return [];
    const count = new Set(
      experts.flatMap((other) => (other.name.startsWith(own) ? (PART.exec(other.name)?.[2] ?? []) : [])),
    ).size;
    const path = pathOf(own);
    return [
      { name: `${path}gate_up_proj`, shape: [count, 2 * rows, inputs] },
      { name: `${path}down_proj`, shape: [count, inputs, rows] },
    ];
  });
}

describe.each(MIXTURES)('experts of %s', (family) => {
  const model = build(family);
  const all = renamed(model, (name) => name);
  const experts = all.filter(({ name }) => PART.test(name));
  const rest = all.filter(({ name }) => !PART.test(name));
  const boundOf = (stored: readonly Named[]) => {
    const { model: bound, unused } = bindModel(model, checkpointOf([...stored, ...rest]));
    expect(unused).toEqual([]);
    return bound.blocks.flatMap((block) => block.matrices.filter(({ key }) => PART.test(key)));
  };
  const ways: readonly (readonly [string, (own: string) => string])[] = [
    ['in two tensors under their own path', (own) => own],
    ['in two tensors as version 5 names them', (own) => own.replace(/\.\w+\.experts\.$/, '.mlp.experts.')],
  ];

  it.each(ways)('are read %s', (_, pathOf) => {
    const stored = fusedTensors(experts, pathOf);
    const matrices = boundOf(stored);
    expect(matrices).toHaveLength(experts.length);
    const [gateUp, down] = stored;
    const [, rows = 0, inputs = 0] = gateUp?.shape ?? [];
    const downStart = 2 * elementCount(gateUp?.shape ?? []);
    expect(down?.shape.slice(1)).toEqual([inputs, rows / 2]);
    const offsets = matrices
      .filter(({ key }) => PART.exec(key)?.[2] === '1')
      .slice(0, 3)
      .map(({ parts }) => parts.codes?.extent.fileOffset);
    expect(offsets.sort((a = 0, b = 0) => a - b)).toEqual([
      2 * rows * inputs,
      3 * rows * inputs,
      downStart + rows * inputs,
    ]);
  });

  it.each([
    ['mlp', 'gate_proj', 'up_proj', 'down_proj'],
    ['block_sparse_moe', 'w1', 'w3', 'w2'],
  ])('are read one by one in %s as %s, %s, %s', (parent, gate, up, down) => {
    const stored = experts.map(({ name, shape }) => {
      const [, path = '', index, isGate, isUp] = PART.exec(name) ?? [];
      const all = path.replace(/\.\w+\.experts\.$/, `.${parent}.experts.`);
      return { name: `${all}${index}.${isGate ? gate : isUp ? up : down}.weight`, shape };
    });
    expect(boundOf(stored)).toHaveLength(experts.length);
  });
});

it.each([
  ['gpt_neox', 'embed_out.weight', 'lm_head.weight'],
  ['granitemoe', '.router.layer.weight', '.router.weight'],
  ['mimo_v2_flash', '.attention_sink_bias', '.sinks'],
  ['step3p5', '.mlp.gate.weight', '.moe.gate.weight'],
])('%s has its tensors under their newer or older names: %s, %s', (family, one, other) => {
  const model = build(family);
  const names = renamed(model, (name) => name);
  const spelt = (name: string) =>
    names.map((tensor) => ({
      ...tensor,
      name:
        tensor.name.endsWith(one) || tensor.name.endsWith(other)
          ? tensor.name.slice(0, tensor.name.length - (tensor.name.endsWith(one) ? one : other).length) + name
          : tensor.name,
    }));
  const bound = [one, other].map((name) => bindModel(model, checkpointOf(spelt(name))));
  expect(bound.map(({ unused }) => unused)).toEqual([[], []]);
  expect(spelt(one)).not.toEqual(spelt(other));
  expect(bound[0]?.model.blocks).toEqual(bound[1]?.model.blocks);
});

it('takes values of fused experts that are stored by inputs, also where both sizes are one', () => {
  const model = build('gpt_oss', { intermediate_size: 16 });
  const rest = renamed(model, (name) => name).filter(({ name }) => !/experts\.\d/.test(name));
  const fused = [0, 1, 2, 3].flatMap((layer) => [
    { name: `model.layers.${layer}.mlp.experts.gate_up_proj`, shape: [4, 32, 32] },
    { name: `model.layers.${layer}.mlp.experts.down_proj`, shape: [4, 16, 32] },
  ]);
  const { model: bound, unused } = bindModel(model, checkpointOf([...rest, ...fused]));
  const [first, second] = [0, 1].map((e) =>
    bound.blocks[0]?.matrices.find(({ key }) => key === `mlp.experts.${e}.gate_up_proj`),
  );
  expect(first?.format.name).toBe('dense_in');
  expect(first?.shape).toEqual([32, 32]);
  expect(second?.parts.codes?.extent.fileOffset).toBe(
    (first?.parts.codes?.extent.fileOffset ?? 0) + 32 * 32 * 2,
  );
  expect(unused).toEqual([]);
});

it('refuses experts of one layer that are stored in different types', () => {
  const model = build('qwen3_moe');
  const stored = renamed(model, (name) => name).map((tensor) =>
    tensor.name.includes('experts.1.up_proj') ? { ...tensor, dtype: 'F16' as const } : tensor,
  );
  expect(() => bindModel(model, checkpointOf(stored))).toThrow(
    /block 0 stores mlp\.experts\.\*\.up_proj\.weight partly as bf16 and partly as f16/,
  );
});
