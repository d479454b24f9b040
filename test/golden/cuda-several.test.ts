// Two GPUs give the tokens that one gives, whole or gathered; and one that fails in the middle ends both with its error.
// Skipped, and counted, with fewer GPUs. What fails stays failed, so the last test is the last of the file.

import { describe, expect, it } from 'vitest';
import { CudaBackend, Executor, GiB, makeTransfer, OperatingError, Trace } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import type { GenerationResult } from '../../src/engine/request.js';
import { failingDevice } from '../helpers/failing-device.js';
import { HAS_NCCL, HAS_TWO_GPUS } from '../native/cuda-device.js';
import { fixtureFolder, generateFixture, type Placement, readGolden } from './run-model.js';

const NEW_TOKENS = 8;
const TWO = { devices: [0, 1] } as const;
const ON_GPU: Placement = { device: 'cuda', offload: 'nvme', dramBudgetBytes: GiB };
const WAYS = ['auto', 'none', 'peer', ...(HAS_NCCL ? (['nccl'] as const) : [])] as const;

describe.skipIf(!HAS_TWO_GPUS).each(['bloom-6-heads', 'llama', 'gpt2', 'mixtral'])(
  '%s on two GPUs',
  (name) => {
    const { input_ids: ids } = readGolden(name);

    it.each(WAYS)(
      'gather %s: the same tokens as on one, for layers that stream and that rest',
      async (gather) => {
        // One sequence at a time on each GPU: kernels for more tokens round differently.
        const expected = await generateFixture(name, ids, NEW_TOKENS, ON_GPU, 1);
        for (const plan of [
          {},
          { deviceWindowLayers: 1 },
          { deviceResident: { layers: 2 } },
          { kvOffload: true },
        ]) {
          // Connecting NCCL takes a second each time.
          for (const offload of gather === 'nccl' ? (['nvme'] as const) : (['nvme', 'dram'] as const)) {
            const placement: Placement = { ...ON_GPU, offload, cuda: TWO, gather, plan };
            expect(await generateFixture(name, ids, NEW_TOKENS, placement, 1)).toEqual(expected);
          }
        }
      },
    );
  },
);

describe.skipIf(!HAS_TWO_GPUS)('the second of two GPUs fails in the middle', () => {
  it('all streams end with its one error, and what was finished was told', async () => {
    const opened = await openModel(fixtureFolder('llama'));
    const workload = { sequences: 2, contextTokens: 40, promptTokens: 32, output: 'tokens' } as const;
    const transfer = makeTransfer(HAS_NCCL ? 'nccl' : 'peer', 'given');
    const options = { ...ON_GPU, cuda: TWO, workload, plan: { transfer } };
    const engine = await Engine.open(opened, options);
    const { plan } = engine;
    await engine.close();
    const backend = new CudaBackend({ ...TWO, nccl: HAS_NCCL });
    const executor = await Executor.create({
      model: opened.model,
      plan,
      backend: failingDevice(backend, 1, 2000),
      paths: opened.checkpoint.files,
      trace: new Trace(false),
    });
    const requests = Array.from({ length: 400 }, (_, index) => ({
      index,
      promptTokens: Int32Array.from({ length: 1 + (index % 16) }, (__, at) => (index * 7 + at) % 50),
    }));
    const finished: GenerationResult[] = [];
    const running = generate(executor, requests, {
      batchSize: 2,
      maxNewTokens: NEW_TOKENS,
      stopTokens: new Set(),
      onFinished: (result) => finished.push(result),
    });
    const error: unknown = await running.catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(OperatingError);
    expect(error).toMatchObject({
      code: 'DEVICE_FAILED',
      message: 'a device failed: cuda:1: gather_rows: row 1000 of token 0 is outside the table of 2 rows',
    });
    expect(finished.length).toBeGreaterThan(2);
    expect(finished.length).toBeLessThan(requests.length);
    expect(executor.leasedBuffers).toBe(0);
    await backend.close();
  });
});
