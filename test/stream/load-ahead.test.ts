// Layers that were read before there was a plan must be the ones that compute, read once, and fail as others do.

import { constants } from 'node:os';
import { describe, expect, it } from 'vitest';
import {
  CpuBackend,
  GiB,
  type HostMemory,
  LoadAhead,
  layoutLayer,
  type PlanOptions,
  present,
} from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import type { EngineOptions } from '../../src/engine/engine-options.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { shareOpened } from '../../src/engine/share-opened.js';
import { modelFolder } from '../helpers/fixtures.js';

const PROMPT = Int32Array.of(5, 9, 17, 3);
const NEW_TOKENS = 5;

function optionsFor(virtualDevices: number, plan?: Partial<PlanOptions>): EngineOptions {
  return {
    offload: plan ? 'nvme' : 'dram',
    ...(plan ? { plan } : {}),
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

describe('layers that are not to rest in DRAM', () => {
  const all = { layers: 1000 };

  it.each([
    ['at rest', { deviceResident: all }, 1],
    ['in shards', { deviceResident: all, restsInShards: true }, 2],
    ['some of them', { deviceResident: { layers: 1 } }, 2],
    ['in stages', { deviceResident: all, pipeline: true }, 2],
    ['in slices', { deviceResident: all }, 2],
    ['passing by', { deviceResident: { layers: 0 } }, 2],
    ['in place', {}, 0],
  ] as const)(
    '%s: are read once, and their memory goes when devices have them',
    async (kind, plan, devices) => {
      const plain = await openModel(modelFolder('llama'));
      const opened = kind === 'in slices' ? shareOpened(plain, devices) : plain;
      const options = optionsFor(devices, plan);
      const alone = await Engine.open(opened, options);
      const expected = await textOf(alone);
      const read = (engine: Engine) => engine.trace.summaries().find(({ lane }) => lane === 'nvme→dram');
      const { bytes, spans } = read(alone) ?? {};
      await alone.close();

      // The first two blocks of the plain model, whatever the devices make of them.
      const [block] = plain.model.blocks;
      const mostBytes = 2.5 * layoutLayer(present(block, 'a block')).host.sizeBytes;
      const ahead = new LoadAhead(plain.model, plain.checkpoint.files, { mostBytes });
      const freed: HostMemory[] = [];
      const free = ahead.host.free.bind(ahead.host);
      ahead.host.free = (memory) => {
        freed.push(memory);
        free(memory);
      };
      const engine = await Engine.open(opened, options, ahead);
      expect(await textOf(engine)).toEqual(expected);
      expect(read(engine)).toMatchObject({ bytes, spans });
      expect(freed).toHaveLength(2);
      expect(new Set(freed).size).toBe(2);
      expect(await textOf(engine)).toEqual(expected);
      expect(freed).toHaveLength(2);
      await engine.close();
    },
  );

  it('whose read fails: the next run reads them', async () => {
    const opened = await openModel(modelFolder('llama'));
    const offset = opened.model.blocks[0]?.tensors[0]?.extent.fileOffset ?? 0;
    const io = { faults: { errorAtFileOffset: { offset, errno: constants.errno.EIO } } };
    const ahead = new LoadAhead(opened.model, opened.checkpoint.files, { io, mostBytes: GiB });
    const engine = await Engine.open(opened, optionsFor(2, { deviceResident: all }), ahead);
    for (let run = 0; run < 2; run++)
      await expect(textOf(engine)).rejects.toMatchObject({ code: 'READ_FAILED' });
    await engine.close();
  });

  it('and have experts are not read ahead, since these may come one by one', async () => {
    const { model, checkpoint } = await openModel(modelFolder('mixtral'));
    const ahead = new LoadAhead(model, checkpoint.files, { mostBytes: GiB });
    const backend = new CpuBackend({}, ahead.host);
    expect(ahead.handOver(backend).size).toBe(0);
    await backend.close();
  });
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
    const ahead = new LoadAhead(opened.model, opened.checkpoint.files, { io });
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
