// Layers that were read before there was a plan must be the ones that compute, read once, and fail as others do.

import { constants } from 'node:os';
import { describe, expect, it } from 'vitest';
import { CpuBackend, GiB, LoadAhead } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import type { EngineOptions } from '../../src/engine/engine-options.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { modelFolder } from '../helpers/fixtures.js';

const PROMPT = Int32Array.of(5, 9, 17, 3);
const NEW_TOKENS = 5;

function optionsFor(virtualDevices: number): EngineOptions {
  return {
    offload: 'dram',
    dramBudgetBytes: GiB,
    cpu: { virtualDevices },
    workload: {
      sequences: 1,
      contextTokens: PROMPT.length + NEW_TOKENS,
      promptTokens: PROMPT.length,
      output: 'tokens',
    },
  };
}

async function textOf(engine: Engine): Promise<readonly number[]> {
  const [result] = await generate(engine.executor, [{ index: 0, promptTokens: PROMPT }], {
    batchSize: 1,
    maxNewTokens: NEW_TOKENS,
    stopTokens: new Set(),
  });
  return result?.tokens ?? [];
}

describe.each(['bloom', 'llama', 'gpt2'])('%s', (name) => {
  it.each([0, 1, 3])(
    'makes the same tokens and reads every layer once, %i virtual devices',
    async (count) => {
      const opened = await openModel(modelFolder(name));
      const plain = await Engine.open(opened, optionsFor(count));
      const expected = await textOf(plain);
      const readBytes = plain.trace.summaries().find(({ lane }) => lane === 'nvme→dram')?.bytes;
      await plain.close();

      const ahead = new LoadAhead(opened.model, opened.checkpoint.files);
      const engine = await Engine.open(opened, optionsFor(count), ahead);
      expect(await textOf(engine)).toEqual(expected);
      expect(await textOf(engine)).toEqual(expected);
      const drive = engine.trace.summaries().find(({ lane }) => lane === 'nvme→dram');
      expect(drive?.bytes).toBe(readBytes);
      expect(drive?.spans).toBe(engine.plan.layers.length);
      await engine.close();
      await ahead.close();
    },
  );
});

describe('reads ahead', () => {
  it('begin every block of a small model at once, and none after a backend took over', async () => {
    const { model, checkpoint } = await openModel(modelFolder('llama'));
    const ahead = new LoadAhead(model, checkpoint.files);
    const backend = new CpuBackend({}, ahead.host);
    const loaded = ahead.handOver(backend);
    expect([...loaded.keys()]).toEqual(model.blocks.map((_, index) => index));
    for (const { memory, read } of loaded.values()) {
      expect((await read).bytes).toBeGreaterThan(0);
      expect(memory.bytes.some((byte) => byte !== 0)).toBe(true);
    }
    await backend.close();
  });

  it('end when nothing takes over', async () => {
    const { model, checkpoint } = await openModel(modelFolder('llama'));
    const ahead = new LoadAhead(model, checkpoint.files);
    await ahead.close();
    await ahead.close();
    const backend = new CpuBackend({}, ahead.host);
    const reads = [...ahead.handOver(backend).values()].map(({ read }) => read);
    expect(reads.length).toBeGreaterThan(0);
    const endings = await Promise.allSettled(reads);
    for (const ending of endings) {
      if (ending.status === 'rejected') expect(ending.reason).toMatchObject({ code: 'INTERRUPTED' });
    }
  });

  it('that fail are told of by the run that needs the layer', async () => {
    const opened = await openModel(modelFolder('llama'));
    const offset = opened.model.blocks[1]?.tensors[0]?.extent.fileOffset ?? 0;
    const io = { faults: { errorAtFileOffset: { offset, errno: constants.errno.EIO } } };
    const ahead = new LoadAhead(opened.model, opened.checkpoint.files, io);
    const engine = await Engine.open(opened, optionsFor(1), ahead);
    await expect(textOf(engine)).rejects.toMatchObject({ code: 'READ_FAILED' });
    // The next run reads the layer itself.
    await expect(textOf(engine)).rejects.toMatchObject({ code: 'READ_FAILED' });
    await engine.close();
  });

  it('say which file is missing', async () => {
    const { model } = await openModel(modelFolder('llama'));
    expect(() => new LoadAhead(model, ['/nowhere/model.safetensors'])).toThrow('/nowhere/model.safetensors');
  });
});
