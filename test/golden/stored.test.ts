// Weights in every format run as what they expand to, under every placement.

import { describe, expect, it } from 'vitest';
import { GiB, present } from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import { expandedCheckpoint } from '../formats/expanded.js';
import { type StoredAsOptions, storedAs } from '../formats/stored-as.js';
import { tensorOf } from '../formats/stored-tensor.js';
import { BLOCKS, STYLES, type Style } from '../formats/styles.js';
import { changedCheckpoint } from '../helpers/changed-checkpoint.js';
import type { TestTensor } from '../helpers/safetensors.js';
import {
  ALL_DRAM,
  ALL_NVME,
  generateFixture,
  generateFolder,
  lastResults,
  type Placement,
  readGolden,
} from './run-model.js';

const NEW_TOKENS = 6;
const TOLERANCE = 2e-3;

/** Largest difference of last logits, as a share of the largest magnitude. */
async function apart(fixture: string, style: Style, options: StoredAsOptions = {}): Promise<number> {
  return apartIn(fixture, await storedAs(fixture, style, options));
}

/** The same of a folder that the fixture was stored in. */
async function apartIn(fixture: string, stored: string): Promise<number> {
  const { input_ids: prompts } = readGolden(fixture);
  const logitsOf = async (folder: string) => {
    const results = await lastResults(folder, prompts.slice(0, 2), ALL_NVME, 'logits');
    return results.flatMap(({ result }) => [...result.logits]);
  };
  const [actual, expected] = [await logitsOf(stored), await logitsOf(await expandedCheckpoint(stored))];
  expect(actual.length).toBe(expected.length);
  const scale = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return (
    expected.reduce((most, value, i) => Math.max(most, Math.abs(value - present(actual[i], 'logit'))), 0) /
    scale
  );
}

const named = (styles: readonly Style[]) => styles.map((style) => [style.label, style] as const);

describe('a llama stored as', () => {
  it.each(named(STYLES))('%s', async (_label, style) => {
    expect(await apart('llama', style, { blocks: 1 })).toBeLessThan(TOLERANCE);
  });
});

describe('a mixture stored as', () => {
  const some = STYLES.filter(({ label }) =>
    /bf16 scales|mxfp8|V4|NVFP4 of M|zeros and sc|in groups|AWQ|3 bits, s|NF4/.test(label),
  );
  it.each(named(some))('%s', async (_label, style) => {
    expect(await apart('mixtral', style, { blocks: 1 })).toBeLessThan(TOLERANCE);
  });

  it.each(
    named([BLOCKS, ...STYLES.filter(({ label }) => /bf16 scales|row|4 bits with zeros, a/.test(label))]),
  )('%s, experts as one tensor', async (_label, style) => {
    expect(await apart('mixtral', style, { blocks: 1, fused: true })).toBeLessThan(TOLERANCE);
  });
});

it('DeepSeek-V4 as it is published: blocks in fp8, experts in FP4', async () => {
  const styled = (label: string) =>
    present(
      STYLES.find((style) => style.label.startsWith(label)),
      label,
    );
  const [blocks, groups] = [styled('fp8 as DeepSeek V4'), styled('FP4 as DeepSeek V4')];
  const encode: Style['encode'] = (matrix) =>
    (/experts\.\d/.test(matrix.name) && matrix.K % 32 === 0 ? groups : blocks).encode(matrix);
  const folder = await storedAs('deepseek_v4', { ...groups, config: blocks.config, encode });
  const { model } = await openModel(folder);
  const formats = model.blocks.flatMap(({ matrices }) => matrices.map(({ format }) => format.name));
  expect(new Set(formats)).toEqual(new Set(['dense', 'e4m3', 'fp4']));
  expect(await apartIn('deepseek_v4', folder)).toBeLessThan(TOLERANCE);
});

it.each([
  ['pack-quantized, 4 bits with zeros and scattered groups', /experts\.[02]\..*g_idx/],
  ['GPTQ of 4 bits, second version, asymmetric, scattered groups', /experts\.1\..*g_idx/],
] as const)('a mixture stored as %s, where some experts have no index', async (label, missing) => {
  const style = present(
    STYLES.find((candidate) => candidate.label === label),
    label,
  );
  const change = (all: readonly TestTensor[]) => all.filter(({ name }) => !missing.test(name));
  expect(await apart('mixtral', style, { blocks: 1, change })).toBeLessThan(TOLERANCE);
});

it.each(['one', 'last'])(
  'experts of one tensor in fp8 by inputs, the scales with a dimension of %s',
  async (at) => {
    const folder = await changedCheckpoint('gpt_oss', {
      config: { quantization_config: { quant_method: 'fbgemm_fp8', modules_to_not_convert: ['lm_head'] } },
      tensors: (all) =>
        all.flatMap((tensor) => {
          if (!/experts\.(gate_up|down)_proj$/.test(tensor.name)) return [tensor];
          const [E = 0, K = 0, N = 0] = tensor.shape;
          // Bytes of any values are codes but for those that are none.
          const codes = tensor.data
            .subarray(0, E * K * N)
            .map((byte) => ((byte & 0x7f) === 0x7f ? 0x40 : byte));
          const scales = Array.from({ length: E * N }, (_, i) => 0.001 * (1 + (i % 7)));
          return [
            { name: tensor.name, dtype: 'F8_E4M3', shape: tensor.shape, data: codes },
            tensorOf(`${tensor.name}_scale`, 'F32', at === 'one' ? [E, 1, N] : [E, N, 1], scales),
          ];
        }),
    });
    const { model } = await openModel(folder);
    expect(new Set(model.blocks[0]?.matrices.map(({ format }) => format.name))).toEqual(
      new Set(['dense', 'e4m3_in']),
    );
    expect(await apartIn('gpt_oss', folder)).toBeLessThan(TOLERANCE);
  },
);

it.each([
  ['GPTQ of 4 bits', 'gptq'],
  ['pack-quantized, 4 bits with zeros and scattered groups', 'packed4'],
  ['fp8, blocks with short last ones', 'e4m3'],
])('a head stored as %s', async (label) => {
  const style = present(
    STYLES.find((candidate) => candidate.label === label),
    label,
  );
  expect(await apart('llama', style, { blocks: 1, head: true })).toBeLessThan(TOLERANCE);
});

const PLACEMENTS: readonly (readonly [string, Placement])[] = [
  ['all in DRAM', ALL_DRAM],
  ['one layer of window', { ...ALL_NVME, plan: { hostWindowLayers: 1 } }],
  ['7 tokens a micro-batch', { ...ALL_NVME, plan: { microBatchTokens: 7 } }],
  [
    '2 devices with copies and gathers',
    { ...ALL_NVME, cpu: { virtualDevices: 2 }, plan: { deviceWindowLayers: 1 } },
  ],
  ['3 devices, gathered by peers', { ...ALL_NVME, cpu: { virtualDevices: 3 }, gather: 'peer' }],
  [
    'layers at rest and keys and values in DRAM',
    {
      offload: 'nvme',
      dramBudgetBytes: GiB,
      cpu: { virtualDevices: 2 },
      plan: { deviceResident: { layers: 1 }, kvOffload: true },
    },
  ],
  ['buffered reads, one thread', { ...ALL_NVME, cpu: { threads: 1, io: { direct: false } } }],
];

const FIXTURES = [
  'q-awq-int4-qwen2',
  'q-bnb-int8-opt',
  'q-bnb-nf4-llama',
  'q-ct-fp8-llama',
  'q-ct-int4-llama',
  'q-ct-int8-qwen3',
  'q-fp8-block-deepseek_v3',
  'q-fp8-block-llama',
  'q-gptq-int4-llama',
];

describe.each(FIXTURES)('%s', (name) => {
  const { input_ids: prompts } = readGolden(name);
  it('gives the same tokens wherever it rests', async () => {
    const expected = await generateFixture(name, prompts, NEW_TOKENS, ALL_NVME);
    for (const [label, placement] of PLACEMENTS) {
      const actual = await generateFixture(name, prompts, NEW_TOKENS, placement);
      expect(actual, label).toEqual(expected);
    }
  });
});

it('a mixture with scattered groups gives the same tokens wherever it rests', async () => {
  const { input_ids: prompts } = readGolden('mixtral');
  const style = present(
    STYLES.find(({ label }) => label === 'GPTQ of 4 bits, second version, asymmetric, scattered groups'),
    'style',
  );
  const folder = await storedAs('mixtral', style);
  const expected = await generateFolder(folder, prompts, NEW_TOKENS, ALL_NVME);
  for (const [label, placement] of PLACEMENTS.slice(0, 5)) {
    expect(await generateFolder(folder, prompts, NEW_TOKENS, placement), label).toEqual(expected);
  }
});
