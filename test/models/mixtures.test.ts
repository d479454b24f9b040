// Mixtures of experts: which layers have them, how their weights are found, and what a plan makes of their arithmetic.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { dryRun } from '../../offload/plan/dry-run.js';
import { type Checkpoint, openCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { openModel } from '../../src/engine/open-model.js';
import { ALL_NVME, fixtureFolder, generateFolder, readGolden } from '../golden/run-model.js';
import { fusedMixtral } from '../helpers/fused-experts.js';
import { fieldOf, recordForward, scoreOf } from '../helpers/recorded-forward.js';
import { type TestTensor, writeSafetensors } from '../helpers/safetensors.js';
import { tempFolder } from '../helpers/temp-folder.js';
import { build } from './small-configs.js';

const sparse = (changes: Record<string, unknown>) =>
  recordForward(build('qwen3_moe', changes)).blocks.map((ops) => ops.some(({ op }) => op === 'route'));

describe('layers of Qwen3-MoE', () => {
  it('have experts in every layer, or in every so-manieth', () => {
    expect(sparse({})).toEqual([true, true, true, true]);
    expect(sparse({ decoder_sparse_step: 2 })).toEqual([false, true, false, true]);
    expect(sparse({ decoder_sparse_step: 3 })).toEqual([false, false, true, false]);
  });

  it('are dense where mlp_only_layers says so', () => {
    expect(sparse({ mlp_only_layers: [0, 3] })).toEqual([false, true, true, false]);
    expect(sparse({ mlp_only_layers: null })).toEqual([true, true, true, true]);
  });

  it('slide all together, and only where the configuration asks for it', () => {
    const windows = (changes: Record<string, unknown>) =>
      scoreOf(build('qwen3_moe', changes), 'windowTokens');
    expect(windows({ sliding_window: 8 })).toEqual([0, 0, 0, 0]);
    expect(windows({ sliding_window: 8, use_sliding_window: true })).toEqual([8, 8, 8, 8]);
  });
});

it('weights of the chosen experts sum to one in Mixtral, and where Qwen3-MoE says so', () => {
  const normalize = (family: string, changes: Record<string, unknown> = {}) =>
    new Set(fieldOf(build(family, changes), 'route', 'rule').map((rule) => rule.normalize));
  expect(normalize('mixtral')).toEqual(new Set([true]));
  expect(normalize('qwen3_moe')).toEqual(new Set([true]));
  expect(normalize('qwen3_moe', { norm_topk_prob: false })).toEqual(new Set([false]));
  expect(normalize('qwen3_moe', { norm_topk_prob: undefined })).toEqual(new Set([false]));
});

it('gpt-oss slides in every other layer, and has sinks and choices that sum to one in all', () => {
  const model = build('gpt_oss');
  expect(scoreOf(model, 'windowTokens')).toEqual([16, 0, 16, 0]);
  expect(scoreOf(model, 'sinks').map((sinks) => sinks?.shape)).toEqual([[4], [4], [4], [4]]);
  expect(fieldOf(model, 'route', 'rule').map((rule) => rule.normalize)).toEqual([true, true, true, true]);
});

it('Mixtral slides where it has a window', () => {
  const windows = (changes: Record<string, unknown>) => scoreOf(build('mixtral', changes), 'windowTokens');
  expect(windows({})).toEqual([0, 0, 0, 0]);
  expect(windows({ sliding_window: null })).toEqual([0, 0, 0, 0]);
  expect(windows({ sliding_window: 8 })).toEqual([8, 8, 8, 8]);
});

it('every expert is an extent of its own', async () => {
  const { model } = await openModel(fixtureFolder('mixtral'));
  const experts = present(model.blocks[0], 'a block').tensors.filter(({ key }) => key.includes('experts'));
  expect(experts).toHaveLength(4 * 3);
  const places = experts.map(({ extent }) => `${extent.fileIndex}:${extent.fileOffset}`);
  expect(new Set(places).size).toBe(experts.length);
});

it('a plan counts the chosen experts only', async () => {
  const { model } = await openModel(fixtureFolder('mixtral'));
  const [H, I, layers, kv, chosen, experts] = [64, 160, 4, 32, 2, 4];
  const perToken = layers * 2 * (2 * H * H + 2 * H * kv + H * experts + chosen * 3 * H * I);
  expect(dryRun(model, 16, 1, 'f32').blockFlopsPerToken).toBe(perToken);
});

describe('a checkpoint with the experts of a layer in one tensor', () => {
  it('gives the same tokens', async () => {
    const { input_ids: prompts } = readGolden('mixtral');
    const fused = await fusedMixtral(4);
    const expected = await generateFolder(fixtureFolder('mixtral'), prompts, 8, ALL_NVME);
    expect(await generateFolder(fused, prompts, 8, ALL_NVME)).toEqual(expected);
  });

  it('is told when a tensor has another shape', async () => {
    const fused = await fusedMixtral(3);
    await expect(openModel(fused)).rejects.toMatchObject({ code: 'WRONG_SHAPE' });
  });
});

it('a checkpoint without an expert is told what was looked for', async () => {
  const checkpoint = await openCheckpoint(fixtureFolder('mixtral'));
  const wanted = 'layers.2.block_sparse_moe.experts.3.w2.weight';
  const folder = copyWithout(checkpoint, `model.${wanted}`);
  const failure = openModel(folder);
  await expect(failure).rejects.toMatchObject({ code: 'MISSING_TENSOR' });
  await expect(failure).rejects.toThrow(`${wanted} or model.layers.2.mlp.experts.down_proj`);
});

function readTensors({ tensors, files }: Checkpoint): TestTensor[] {
  const contents = files.map((path) => readFileSync(path));
  return [...tensors.values()].map(({ name, dtype, shape, fileIndex, fileOffset, sizeBytes }) => {
    const data = present(contents[fileIndex], 'file').subarray(fileOffset, fileOffset + sizeBytes);
    return { name, dtype, shape, data };
  });
}

function writeCheckpoint(from: Checkpoint, tensors: readonly TestTensor[]): string {
  const folder = join(tempFolder(), 'model');
  mkdirSync(folder);
  writeFileSync(join(folder, 'config.json'), JSON.stringify(from.config));
  writeSafetensors(join(folder, 'model.safetensors'), tensors);
  return folder;
}

function copyWithout(checkpoint: Checkpoint, name: string): string {
  return writeCheckpoint(
    checkpoint,
    readTensors(checkpoint).filter((tensor) => tensor.name !== name),
  );
}
