// DeepSeek-V4 under the names that its makers, transformers and programs that save its modules as they are give its tensors.

import { expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import { changedCheckpoint, copied } from '../helpers/changed-checkpoint.js';
import { modelFolder } from '../helpers/fixtures.js';
import type { TestTensor } from '../helpers/safetensors.js';
import { ALL_NVME, lastResults, readGolden } from './run-model.js';

const FIXTURE = 'deepseek_v4';
const EXPERTS = 6;
type Renaming = readonly (readonly [RegExp, string])[];

/** From what transformers saves. */
const PUBLISHED: Renaming = [
  [/^model\.embed_tokens\./, 'embed.'],
  [/^model\.hc_head\.hc_/, 'hc_head_'],
  [/^model\./, ''],
  [/\.attn\.norm\./, '.attn.kv_norm.'],
];
const IN_MEMORY: Renaming = [
  [/^head\./, 'lm_head.'],
  [/\.attn\.indexer\.compressor\./, '.attn.compressor.indexer.'],
  [/\.indexer\.weights_proj\./, '.compressor.indexer.scorer.weights_proj.'],
  [/\.indexer\.wq_b\./, '.compressor.indexer.q_b_proj.'],
  [/\.attn\./, '.self_attn.'],
  [/\.ffn\./, '.mlp.'],
  [/\.attn_norm\./, '.input_layernorm.'],
  [/\.ffn_norm\./, '.post_attention_layernorm.'],
  [/\.hc_(attn|ffn)_/, '.$1_hc.'],
  [/\.attn_sink$/, '.sinks'],
  [/\.norm\.weight$/, '.kv_norm.weight'],
  [/^model\.kv_norm\./, 'model.norm.'],
  [/\.ape$/, '.position_bias'],
  [/\.q_norm\./, '.q_a_norm.'],
  [/\.wq_(a|b)\./, '.q_$1_proj.'],
  [/\.wkv\./, '.kv_proj.'],
  [/\.wgate\./, '.gate_proj.'],
  [/\.wo_(a|b)\./, '.o_$1_proj.'],
  [/\.gate\.bias$/, '.gate.e_score_correction_bias'],
  [/experts(\.\d+)?\.w1\./, 'experts$1.gate_proj.'],
  [/experts(\.\d+)?\.w2\./, 'experts$1.down_proj.'],
  [/experts(\.\d+)?\.w3\./, 'experts$1.up_proj.'],
];

const byNames = (renaming: Renaming) => (tensors: readonly Required<TestTensor>[]) =>
  tensors.map((tensor) => ({
    ...tensor,
    name: renaming.reduce((name, [from, to]) => name.replace(from, to), tensor.name),
  }));

/** Gates over what they multiply, all experts of a layer in one tensor. */
function fused(tensors: readonly Required<TestTensor>[]): TestTensor[] {
  const stored = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const layers = tensors.flatMap(({ name }) => /^(.*\.experts)\.0\.up_proj\.weight$/.exec(name)?.[1] ?? []);
  const stack = (layer: string, names: readonly string[]): TestTensor => {
    const parts = Array.from({ length: EXPERTS }, (_, e) =>
      names.map((name) => present(stored.get(`${layer}.${e}.${name}_proj.weight`), name)),
    ).flat();
    const [rows = 0, columns = 0] = parts[0]?.shape ?? [];
    return {
      name: `${layer}.${names.join('_')}_proj`,
      dtype: 'BF16',
      shape: [EXPERTS, rows * names.length, columns],
      data: Buffer.concat(parts.map(({ data }) => data)),
    };
  };
  return [
    ...tensors.filter(({ name }) => !/\.experts\.\d/.test(name)),
    ...layers.flatMap((layer) => [stack(layer, ['gate', 'up']), stack(layer, ['down'])]),
  ];
}

/** As makers keep what is small and decides much; bf16 is the first half of f32. */
function widened(tensors: readonly Required<TestTensor>[]): TestTensor[] {
  return tensors.map((tensor) => {
    const { name, dtype } = tensor;
    const data = Buffer.from(tensor.data);
    const count = data.length / (dtype === 'I64' ? 8 : 2);
    const words = (of: (index: number) => number) => {
      const wide = Buffer.alloc(4 * count);
      for (let i = 0; i < count; i++) wide.writeUInt32LE(of(i), 4 * i);
      return wide;
    };
    if (dtype === 'I64') return { ...tensor, dtype: 'I32', data: words((i) => data.readUInt32LE(8 * i)) };
    if (!/(norm\.weight|sink|ape|_base|_scale|gate\.bias)$/.test(name)) return tensor;
    return { ...tensor, dtype: 'F32', data: words((i) => data.readUInt16LE(2 * i) * 2 ** 16) };
  });
}

it.each([
  ['as published', byNames(PUBLISHED)],
  ['with small ones in f32, and the table of experts in 32 bits', widened],
  ['as modules are called', byNames(IN_MEMORY)],
  [
    'as modules are called, experts in one tensor',
    (all: Required<TestTensor>[]) => fused(byNames(IN_MEMORY)(all)),
  ],
] as const)('%s, the results are the same', async (_, change) => {
  const folder = await changedCheckpoint(FIXTURE, { tensors: (all) => change(all) });
  expect((await openModel(folder)).warnings).toEqual([]);
  const logitsOf = async (from: string) =>
    (await lastResults(from, readGolden(FIXTURE).input_ids.slice(0, 2), ALL_NVME, 'logits')).map(
      ({ result }) => result.logits,
    );
  expect(await logitsOf(folder)).toEqual(await logitsOf(modelFolder(FIXTURE)));
});

it('a table of experts of another type or shape is refused by its name', async () => {
  const changed = (change: (tensor: Required<TestTensor>) => TestTensor) =>
    changedCheckpoint(FIXTURE, {
      tensors: (all) => all.map((tensor) => (tensor.name.endsWith('tid2eid') ? change(tensor) : tensor)),
    });
  const halves = await changed((tensor) => ({
    ...tensor,
    dtype: 'BF16',
    data: tensor.data.subarray(0, tensor.data.length / 4),
  }));
  await expect(openModel(halves)).rejects.toThrow(
    /tid2eid is stored as BF16; supported of whole numbers: I32, I64/,
  );
  const fewer = await changed((tensor) => ({ ...tensor, shape: [192, 4] }));
  await expect(openModel(fewer)).rejects.toThrow(
    /tid2eid has shape \[192, 4\], but config.json implies \[384, 2\]/,
  );
});

it('an embedding and a head that are said to be one, and differ, are told', async () => {
  const tied = { config: { tie_word_embeddings: true } };
  const { warnings } = await openModel(await changedCheckpoint(FIXTURE, tied));
  expect(warnings).toEqual([expect.stringMatching(/model\.embed_tokens\.weight and head\.weight differ/)]);
  const alike = await changedCheckpoint(FIXTURE, {
    ...tied,
    tensors: (all) => [
      ...all.filter(({ name }) => name !== 'head.weight'),
      copied(all, 'model.embed_tokens.weight', 'head.weight'),
    ],
  });
  expect((await openModel(alike)).warnings).toEqual([]);
});
