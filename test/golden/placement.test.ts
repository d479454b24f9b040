// Offloading must not change tokens: every tier, window, micro-batch split, page size and device count gives the same.

import { describe, expect, it } from 'vitest';
import { GiB } from '../../offload/index.js';
import {
  ALL_DRAM,
  ALL_NVME,
  generateFixture,
  mixedPlacement,
  type Placement,
  readGolden,
  scoreFixture,
} from './run-model.js';

const NEW_TOKENS = 8;

function placements(layerCount: number): [string, Placement][] {
  const windows = Array.from({ length: layerCount }, (_, index) => index + 1);
  return [
    ['all in DRAM', ALL_DRAM],
    ...windows.map((hostWindowLayers): [string, Placement] => [
      `window ${hostWindowLayers}`,
      { ...ALL_NVME, plan: { hostWindowLayers } },
    ]),
    ...[1, 2, 3].map((microBatchSequences): [string, Placement] => [
      `${microBatchSequences} sequences a micro-batch`,
      { ...ALL_NVME, plan: { microBatchSequences } },
    ]),
    ...[1, 7, 16, 40].map((microBatchTokens): [string, Placement] => [
      `${microBatchTokens} tokens a micro-batch`,
      { ...ALL_NVME, plan: { microBatchTokens } },
    ]),
    ...[1, 2, 3].map((virtualDevices): [string, Placement] => [
      `${virtualDevices} devices with copies and gathers`,
      {
        offload: 'nvme',
        dramBudgetBytes: GiB,
        cpu: { virtualDevices },
        plan: { deviceWindowLayers: virtualDevices },
      },
    ]),
    ...[2, 3].flatMap((virtualDevices) =>
      (['peer', 'none'] as const).flatMap((gather) =>
        [{ deviceWindowLayers: 1 }, { deviceResident: { layers: 2 } }, { kvOffload: true }].map(
          (plan): [string, Placement] => [
            `${virtualDevices} devices, gather ${gather}, ${JSON.stringify(plan)}`,
            { ...ALL_NVME, cpu: { virtualDevices }, gather, plan },
          ],
        ),
      ),
    ),
    ...residents(layerCount),
    ...inShards(layerCount),
    ...[1, 2, 3].flatMap((virtualDevices) =>
      [{}, { microBatchTokens: 7 }, { microBatchSequences: 1 }].map((plan): [string, Placement] => [
        `keys and values in DRAM, ${virtualDevices} devices, ${JSON.stringify(plan)}`,
        {
          offload: 'nvme',
          dramBudgetBytes: GiB,
          cpu: { virtualDevices },
          plan: { ...plan, kvOffload: true, deviceResident: { layers: 1 } },
        },
      ]),
    ),
    ...[1, 4, 64].flatMap((pageTokens) =>
      [false, true].map((kvOffload): [string, Placement] => [
        `pages of ${pageTokens} tokens, keys and values ${kvOffload ? 'in DRAM' : 'on the device'}`,
        {
          offload: 'nvme',
          dramBudgetBytes: GiB,
          cpu: { virtualDevices: 2 },
          plan: { pageTokens, kvOffload, microBatchTokens: 7 },
        },
      ]),
    ),
    ['one thread', { ...ALL_NVME, cpu: { threads: 1 } }],
    ['threads instead of io_uring', { ...ALL_NVME, cpu: { io: { engine: 'threads' } } }],
    ['buffered reads', { ...ALL_NVME, cpu: { io: { direct: false } } }],
    ['buffers not registered', { ...ALL_NVME, cpu: { io: { fixedBuffers: false } } }],
  ];
}

/** Some, nearly all and all layers at rest on each device, the others in DRAM or on the drive. */
function inShards(layerCount: number): [string, Placement][] {
  return [2, 3].flatMap((virtualDevices) =>
    [Math.ceil(layerCount / 2), layerCount].map((layers): [string, Placement] => [
      `${layers} layers at rest in shards on ${virtualDevices} devices`,
      {
        ...ALL_NVME,
        cpu: { virtualDevices },
        plan: { deviceResident: { layers }, restsInShards: true, deviceWindowLayers: 2 },
      },
    ]),
  );
}

function residents(layerCount: number): [string, Placement][] {
  return [1, 2, 3].flatMap((virtualDevices) =>
    [...new Set([1, Math.ceil(layerCount / 2), layerCount - 1, layerCount])].flatMap((layers) =>
      (['nvme', 'dram'] as const).map((offload): [string, Placement] => [
        `${layers} layers at rest on ${virtualDevices} devices, the others ${offload}`,
        {
          offload,
          dramBudgetBytes: GiB,
          cpu: { virtualDevices },
          plan: { deviceResident: { layers } },
        },
      ]),
    ),
  );
}

describe.each([
  ['bloom-6-heads', 4],
  ['llama', 5],
  ['gemma3_text', 7],
  ['glm4_moe_lite', 5],
])('%s', (name, layerCount) => {
  const golden = readGolden(name);
  let first: ReturnType<typeof generateFixture> | undefined;
  /** All layers from the drive: what every other placement has to give. */
  const plainly = () => {
    first ??= generateFixture(name, golden.input_ids, NEW_TOKENS, ALL_NVME);
    return first;
  };

  it.each(placements(layerCount))('%s', async (_, placement) => {
    const expected = await plainly();
    const actual = await generateFixture(name, golden.input_ids, NEW_TOKENS, placement);
    expect(actual).toEqual(expected);
  });

  it.each([
    [1, 1],
    [2, 1],
    [1, 2],
    [2, 3],
  ])('%d at once on each of %d devices, in another order', async (batchSize, virtualDevices) => {
    const expected = await plainly();
    const placement = { ...ALL_NVME, cpu: { virtualDevices } };
    const reversed = [...golden.input_ids].reverse();
    const actual = await generateFixture(name, reversed, NEW_TOKENS, placement, batchSize);
    expect(actual.map(({ tokens }) => tokens).reverse()).toEqual(expected.map(({ tokens }) => tokens));
  });

  it('some layers in DRAM, some on the drive', async () => {
    const expected = await plainly();
    const { placement, plan } = await mixedPlacement(name, golden.input_ids, NEW_TOKENS);
    expect(new Set(plan.layers.map(({ tier }) => tier))).toEqual(new Set(['dram', 'nvme']));
    expect(await generateFixture(name, golden.input_ids, NEW_TOKENS, placement)).toEqual(expected);
  });

  it('a score depends on neither micro-batch nor page size', async () => {
    const expected = await scoreFixture(name, golden.nll_ids, 64, ALL_DRAM);
    const actual = await scoreFixture(name, golden.nll_ids, 64, {
      ...ALL_NVME,
      plan: { microBatchTokens: 5, pageTokens: 8 },
    });
    expect(actual).toEqual(expected);
  });
});
