// Rows that the host multiplies where they rest must not change tokens: whatever share of them travels, texts are the same.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { CUTS } from '../../offload/model/cut-layer.js';
import type { Op } from '../../offload/port/ops.js';
import { DeviceRows } from '../../offload/run/host-rows.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { ALL_DRAM, fixtureFolder, generateFixture, generationWorkload, readGolden } from './run-model.js';

const NEW_TOKENS = 8;

/** Fused and separate projections, biases, parallel blocks, tied heads, matrices that cannot be cut, and formats with scales. */
const MODELS = [
  'bloom',
  'gemma2',
  'gpt2',
  'gptj',
  'opt',
  'qwen3_5_text',
  'q-bnb-nf4-llama',
  'q-ct-int4-llama',
  'q-fp8-block-deepseek_v3',
];

/** Share of rows that travel, and sequences at once. */
const SPLITS = [
  [0, 1],
  [11, 64],
  [31, 1],
] as const;

const generateAll = (engine: Engine, name: string, batchSize: number) =>
  generate(
    engine.executor,
    readGolden(name).input_ids.map((prompt, index) => ({ index, promptTokens: Int32Array.from(prompt) })),
    { batchSize, maxNewTokens: NEW_TOKENS, stopTokens: new Set<number>() },
  );

const engineOf = async (name: string, hostRowShare: number, batchSize: number) =>
  Engine.open(await openModel(fixtureFolder(name)), {
    ...ALL_DRAM,
    cpu: { virtualDevices: 1 },
    plan: { hostRowShare },
    workload: generationWorkload(readGolden(name).input_ids, NEW_TOKENS, batchSize),
  });

describe.each(MODELS)('%s', (name) => {
  const prompts = readGolden(name).input_ids;

  it.each(SPLITS)('%i of 32 rows travel, %i sequences at once', async (hostRowShare, batchSize) => {
    const expected = await generateFixture(name, prompts, NEW_TOKENS, ALL_DRAM, batchSize);
    const engine = await engineOf(name, hostRowShare, batchSize);
    try {
      expect(await generateAll(engine, name, batchSize)).toEqual(expected);
      const { passes, stayedBytes, share } = present(engine.executor.rowCounts, 'counts');
      expect(passes).toBeGreaterThanOrEqual(NEW_TOKENS - 2);
      expect(stayedBytes).toBeGreaterThan(0);
      expect(share).toBe(hostRowShare / CUTS);
    } finally {
      await engine.close();
    }
  });
});

it('a host that cannot multiply ends the run with a sentence', async () => {
  const { ask } = DeviceRows.prototype;
  DeviceRows.prototype.ask = function (x, products) {
    const asked = ask.call(this, x, products);
    return { ...asked, ask: { ...asked.ask, job: 1e6 } as Op };
  };
  const engine = await engineOf('opt', 9, 1);
  try {
    await expect(generateAll(engine, 'opt', 1)).rejects.toMatchObject({
      code: 'DEVICE_FAILED',
      message: expect.stringMatching(/^the processor failed .* job 1000000, which there is not$/) as string,
    });
  } finally {
    DeviceRows.prototype.ask = ask;
    await engine.close();
  }
});
