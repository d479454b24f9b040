// Devices that compute every layer together must give the reference's results, however the layers reach them.

import { existsSync, readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { GiB, OperatingError } from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import { shareOpened } from '../../src/engine/share-opened.js';
import { forcedSteps, wrongSteps } from './forced.js';
import {
  ALL_NVME,
  fixtureFolder,
  generateFixture,
  type Placement,
  readGolden,
  scoreFixture,
} from './run-model.js';

/** As a share of the largest logit: sums in the order of the devices. */
const TOLERANCE = 1e-4;

function together(sharedBy: number, placement: Omit<Placement, 'sharedBy'> = ALL_NVME): Placement {
  return { ...placement, sharedBy, cpu: { virtualDevices: sharedBy } };
}

/** Whether so many devices can share the fixture's heads, inner sizes and formats, and if not, why. */
async function whyNot(name: string, devices: number): Promise<string | undefined> {
  const opened = await openModel(fixtureFolder(name));
  try {
    shareOpened(opened, devices);
    return undefined;
  } catch (error) {
    if (error instanceof OperatingError && error.code === 'UNSUPPORTED') return error.message;
    throw error;
  }
}

const FIXTURES = readdirSync(fixtureFolder('.')).filter((name) =>
  existsSync(`${fixtureFolder(name)}/golden.json`),
);
const SHARED: (readonly [string, number])[] = [];
const REFUSED: (readonly [string, number, string])[] = [];
/** One of every way to cut heads, experts and formats. */
const KINDS = [
  'bloom',
  'cohere-normed',
  'deepseek_v3',
  'falcon-7b-style',
  'gpt2',
  'gpt_oss',
  'hunyuan_v1_moe',
  'llama',
  'mixtral',
  'phi3',
  'q-ct-fp8-llama',
  'qwen3_moe-unnormalised',
];
/** Every fixture that can be shared, by `ZI_TENSOR=all`. */
const IS_LONG = process.env.ZI_TENSOR === 'all';
let sharedByTwo = 0;
for (const name of FIXTURES) {
  for (const devices of KINDS.includes(name) ? [2, 4] : [2]) {
    const why = await whyNot(name, devices);
    if (why === undefined && devices === 2) sharedByTwo++;
    if (why === undefined) {
      if (IS_LONG || KINDS.includes(name)) SHARED.push([name, devices]);
    } else REFUSED.push([name, devices, why]);
  }
}

it('most fixtures can be shared by two devices', () => {
  expect(sharedByTwo).toBeGreaterThan(FIXTURES.length / 2);
});

it.each(REFUSED)('%s on %i devices is refused with what to do', (_name, _devices, why) => {
  expect(why).toMatch(/give .*--parallel streams|supported: streams/);
});

describe.each(SHARED)('%s on %i devices', (name, devices) => {
  const golden = readGolden(name);

  it('every step has the margin of the reference, given its tokens', async () => {
    const steps = await forcedSteps(name, golden, together(devices), golden.input_ids.length);
    expect(steps.length).toBe(golden.greedy.flat().length);
    expect(wrongSteps(steps, golden, TOLERANCE)).toEqual([]);
  });

  it.runIf(KINDS.includes(name))('nll lies within 1e-4 relative', async () => {
    const { nll } = await scoreFixture(name, golden.nll_ids, golden.nll_ids.length, together(devices));
    expect(Math.abs(nll - golden.nll) / golden.nll).toBeLessThan(TOLERANCE);
  });
});

describe.each([
  ['shakespeare-bloom', 2],
  ['llama', 2],
  ['mixtral', 2],
] as const)('%s on %i devices, wherever layers rest', (name, devices) => {
  const prompts = readGolden(name).input_ids;
  const placements: readonly Omit<Placement, 'sharedBy'>[] = [
    { offload: 'dram', dramBudgetBytes: GiB },
    { ...ALL_NVME, plan: { deviceWindowLayers: 1 } },
    { ...ALL_NVME, plan: { deviceResident: { layers: 2 } } },
    { ...ALL_NVME, plan: { microBatchTokens: 7 } },
    { offload: 'dram', dramBudgetBytes: GiB, plan: { kvOffload: true, microBatchSequences: 1 } },
  ];

  it.each(placements)('tokens are the same: %j', async (placement) => {
    const expected = await generateFixture(name, prompts, 8, together(devices));
    expect(await generateFixture(name, prompts, 8, together(devices, placement))).toEqual(expected);
  });
});
