// Mixtures since 2024: which layers are one, what their routers do, and how experts are stored.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import { ALL_NVME, fixtureFolder, generateFolder, readGolden } from '../golden/run-model.js';
import { changedCheckpoint } from '../helpers/changed-checkpoint.js';
import { fieldOf, recordForward } from '../helpers/recorded-forward.js';
import type { TestTensor } from '../helpers/safetensors.js';
import { build, type Config } from './small-configs.js';

const sparse = (family: string, changes: Config = {}) =>
  recordForward(build(family, changes)).blocks.map((ops) => ops.some(({ op }) => op === 'route'));
const ruleOf = (family: string, changes: Config = {}) =>
  present(fieldOf(build(family, changes), 'route', 'rule')[0], 'a mixture');

describe('layers that are mixtures', () => {
  it('come after the first dense ones, or are listed as version 5 lists them', () => {
    expect(sparse('glm4_moe')).toEqual([false, true, true, true]);
    expect(sparse('glm4_moe', { first_k_dense_replace: 3 })).toEqual([false, false, false, true]);
    const listed = { mlp_layer_types: ['sparse', 'dense', 'dense', 'sparse'] };
    for (const family of ['glm4_moe', 'hy_v3', 'dots1', 'qwen2_moe', 'ernie4_5_moe']) {
      expect(sparse(family, listed), family).toEqual([true, false, false, true]);
    }
    expect(sparse('hy_v3')).toEqual([false, true, true, true]);
    expect(sparse('hy_v3', { first_k_dense_replace: 0 })).toEqual([true, true, true, true]);
  });

  it("are ERNIE's from a first to a last one, and Llama 4's at intervals or as listed", () => {
    const ernie = { moe_layer_start_index: 0, moe_layer_end_index: 2 };
    expect(sparse('ernie4_5_moe')).toEqual([false, true, true, true]);
    expect(sparse('ernie4_5_moe', ernie)).toEqual([true, true, true, false]);
    expect(sparse('ernie4_5_moe', { ...ernie, moe_layer_interval: 2 })).toEqual([false, true, false, false]);
    expect(sparse('llama4_text')).toEqual([false, true, false, true]);
    expect(sparse('llama4_text', { moe_layers: [0] })).toEqual([true, false, false, false]);
  });
});

describe('routers', () => {
  it("are DeepSeek-V3's with groups and a factor where the configuration has them", () => {
    const changes = { n_group: 4, topk_group: 2, routed_scaling_factor: 2.5, norm_topk_prob: true };
    const rule = { score: 'sigmoid', groups: 4, groupsKept: 2, groupBest: 2, normalize: true, scale: 2.5 };
    expect(ruleOf('glm4_moe', changes)).toMatchObject({ ...rule, addedToSum: 1e-20 });
    expect(ruleOf('dots1')).toMatchObject({ normalize: false, addedToSum: 0, groups: 1, scale: 1 });
  });

  it('divide by their sum as each family does', () => {
    expect(ruleOf('minimax_m2')).toMatchObject({ score: 'sigmoid', normalize: true, addedToSum: 0 });
    expect(ruleOf('hy_v3')).toMatchObject({ score: 'sigmoid', addedToSum: 1e-20, scale: 2.826 });
    expect(ruleOf('ernie4_5_moe')).toMatchObject({ score: 'softmax', normalize: true, leastSum: 1e-12 });
    expect(ruleOf('phimoe')).toMatchObject({ sparseMixer: 0.02 });
    expect(ruleOf('qwen2_moe')).toMatchObject({ score: 'softmax', normalize: false });
  });
});

it('MiniMax-M2 turns as much of a head as rotary_dim says, or all of it', () => {
  const turned = (changes: Config) =>
    fieldOf(build('minimax_m2', changes), 'rotary', 'inverseFrequencies')[0]?.shape[0];
  expect(turned({})).toBe(4);
  expect(turned({ rotary_dim: undefined })).toBe(8);
  expect(turned({ rotary_dim: undefined, partial_rotary_factor: 0.5 })).toBe(4);
});

it("Llama 4's experts take scaled inputs, and its layers see chunks but for those that do not rotate", () => {
  const model = build('llama4_text');
  expect(fieldOf(model, 'attention', 'score').map(({ chunkTokens }) => chunkTokens)).toEqual([16, 16, 16, 0]);
  const ops = recordForward(model).blocks.map((block) => block.map(({ op }) => op));
  expect(ops.map((names) => names.includes('rotary'))).toEqual([true, true, true, false]);
  expect(ops.map((names) => names.includes('position_scale'))).toEqual([false, false, false, true]);
  expect(ops[1]).toContain('scale_rows');
  expect(fieldOf(model, 'combine', 'weights')).toEqual([null, null]);
});

/** Experts of one tensor [experts, inputs, gate and up] as matrices of their own, as quantised checkpoints have them. */
function apart({ name, dtype, shape: [E = 0, K = 0, N = 0], data }: Required<TestTensor>): TestTensor[] {
  const parts = name.includes('gate_up_proj') ? ['gate_proj', 'up_proj'] : ['down_proj'];
  const rows = N / parts.length;
  const bytes = Buffer.from(data);
  return Array.from({ length: E }, (_, e) =>
    parts.map((part, p) => {
      const matrix = Buffer.alloc(rows * K * 2);
      for (let n = 0; n < rows; n++) {
        for (let k = 0; k < K; k++) {
          bytes.copy(
            matrix,
            (n * K + k) * 2,
            ((e * K + k) * N + p * rows + n) * 2,
            ((e * K + k) * N + p * rows + n + 1) * 2,
          );
        }
      }
      const path = name.replace(/(gate_up|down)_proj$/, '');
      return { name: `${path}${e}.${part}.weight`, dtype, shape: [rows, K], data: matrix };
    }),
  ).flat();
}

it("Llama 4's experts give the same tokens one by one as in one tensor, inputs first", async () => {
  const { input_ids: prompts } = readGolden('llama4_text');
  const folder = await changedCheckpoint('llama4_text', {
    tensors: (tensors) =>
      tensors.flatMap((tensor) => (tensor.name.includes('experts.') ? apart(tensor) : [tensor])),
  });
  const expected = await generateFolder(fixtureFolder('llama4_text'), prompts, 8, ALL_NVME);
  expect(await generateFolder(folder, prompts, 8, ALL_NVME)).toEqual(expected);
});

/** The experts of every mixture as two tensors [experts, inputs, outputs], as Qwen3-VL-MoE has them. */
function inputsFirst(all: readonly Required<TestTensor>[]): TestTensor[] {
  const tensors: TestTensor[] = all.filter(({ name }) => !name.includes('.experts.'));
  const layers = new Set(all.flatMap(({ name }) => /^.*\.experts\./.exec(name)?.[0] ?? []));
  for (const path of layers) {
    const part = (e: number, name: string) =>
      all.find((tensor) => tensor.name === `${path}${e}.${name}.weight`);
    const count = all.filter(({ name }) => name.startsWith(path) && name.includes('.down_proj.')).length;
    for (const [fused, names] of [
      ['gate_up_proj', ['gate_proj', 'up_proj']],
      ['down_proj', ['down_proj']],
    ] as const) {
      const experts = Array.from({ length: count }, (_, e) =>
        names.map((name) => present(part(e, name), name)),
      );
      const [rows = 0, K = 0] = present(experts[0]?.[0], 'an expert').shape;
      const N = rows * names.length;
      const data = Buffer.alloc(count * K * N * 2);
      experts.forEach((matrices, e) => {
        matrices.forEach((matrix, m) => {
          const bytes = Buffer.from(matrix.data);
          for (let n = 0; n < rows; n++) {
            for (let k = 0; k < K; k++) {
              const from = (n * K + k) * 2;
              bytes.copy(data, ((e * K + k) * N + m * rows + n) * 2, from, from + 2);
            }
          }
        });
      });
      tensors.push({ name: `${path}${fused}`, dtype: 'BF16', shape: [count, K, N], data });
    }
  }
  return tensors;
}

it('experts of one tensor are told by its sizes, whichever way round they are stored', async () => {
  const { input_ids: prompts } = readGolden('hy_v3');
  const folder = await changedCheckpoint('hy_v3', { tensors: inputsFirst });
  const expected = await generateFolder(fixtureFolder('hy_v3'), prompts, 8, ALL_NVME);
  expect(await generateFolder(folder, prompts, 8, ALL_NVME)).toEqual(expected);
});

it.each([
  ['glm4_moe', 'layers.2.mlp.gate.e_score_correction_bias'],
  ['glm4_moe', 'layers.2.mlp.shared_experts.up_proj.weight'],
  ['qwen2_moe', 'layers.0.mlp.shared_expert_gate.weight'],
  ['llama4_text', 'layers.1.feed_forward.experts.gate_up_proj'],
  ['granitemoe', 'layers.1.block_sparse_moe.output_linear.weight'],
  ['ernie4_5_moe', 'layers.1.mlp.moe_statics.e_score_correction_bias'],
])('%s without %s is told what is missing', async (family, name) => {
  const folder = await changedCheckpoint(family, {
    tensors: (tensors) => tensors.filter((tensor) => tensor.name !== `model.${name}`),
  });
  await expect(openModel(folder)).rejects.toMatchObject({ code: 'MISSING_TENSOR' });
  await expect(openModel(folder)).rejects.toThrow(name);
});

it('a configuration of other experts than the checkpoint has names the tensor', async () => {
  const folder = await changedCheckpoint('hy_v3', { config: { moe_intermediate_size: 20 } });
  await expect(openModel(folder)).rejects.toMatchObject({ code: 'WRONG_SHAPE' });
  await expect(openModel(folder)).rejects.toThrow('mlp.experts.0.gate_proj.weight');
});
