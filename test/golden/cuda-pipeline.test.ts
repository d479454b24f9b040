// Two GPUs with half of the layers each give the tokens that one gives, and one that fails ends all with its error.
// Skipped, and counted, with fewer GPUs. What fails stays failed, so the last test is the last of the file.

import { describe, expect, it } from 'vitest';
import { CudaBackend, Executor, GiB, OperatingError, Trace } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { failingDevice } from '../helpers/failing-device.js';
import { HAS_TWO_GPUS } from '../native/cuda-device.js';
import { fixtureFolder, generateFixture, type Placement, readGolden } from './run-model.js';

const NEW_TOKENS = 8;
const TWO = { devices: [0, 1] } as const;
const ON_GPU: Placement = { device: 'cuda', offload: 'nvme', dramBudgetBytes: GiB };
const IN_STAGES = { pipeline: true } as const;

describe.skipIf(!HAS_TWO_GPUS).each(['llama', 'gemma3_text', 'qwen3_next', 'mixtral'])(
  '%s in two stages',
  (name) => {
    const { input_ids: ids } = readGolden(name);

    it('the same tokens as on one GPU, wherever layers and keys rest', async () => {
      // One sequence at a time: kernels for more tokens round differently.
      const expected = await generateFixture(name, ids, NEW_TOKENS, ON_GPU, 1);
      for (const plan of [
        {},
        { deviceWindowLayers: 1 },
        { deviceResident: { layers: 2 } },
        { kvOffload: true },
      ]) {
        for (const offload of ['nvme', 'dram', 'auto'] as const) {
          const placement: Placement = { ...ON_GPU, offload, cuda: TWO, plan: { ...plan, ...IN_STAGES } };
          expect(await generateFixture(name, ids, NEW_TOKENS, placement, 1)).toEqual(expected);
        }
      }
    });
  },
);

describe.skipIf(!HAS_TWO_GPUS)('the second of two stages fails in the middle', () => {
  it('all ends with its one error', async () => {
    const opened = await openModel(fixtureFolder('llama'));
    const workload = { sequences: 2, contextTokens: 40, promptTokens: 32, output: 'tokens' } as const;
    const engine = await Engine.open(opened, { ...ON_GPU, cuda: TWO, workload, plan: IN_STAGES });
    const { plan } = engine;
    await engine.close();
    const backend = new CudaBackend(TWO);
    const executor = await Executor.create({
      model: opened.model,
      plan,
      backend: failingDevice(backend, 1, 1000),
      paths: opened.checkpoint.files,
      trace: new Trace(false),
    });
    const requests = Array.from({ length: 400 }, (_, index) => ({
      index,
      promptTokens: Int32Array.from({ length: 1 + (index % 16) }, (__, at) => (index * 7 + at) % 50),
    }));
    const options = { batchSize: 2, maxNewTokens: NEW_TOKENS, stopTokens: new Set<number>() };
    const error: unknown = await generate(executor, requests, options).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(OperatingError);
    expect(error).toMatchObject({ code: 'DEVICE_FAILED' });
    expect((error as Error).message).toMatch(/^a device failed: cuda:1: /);
    expect(executor.leasedBuffers).toBe(0);
    await backend.close();
  });
});
