// Devices that compute every layer together wait for each other: one that fails or hangs must end all with one error that names it.

import { describe, expect, it } from 'vitest';
import { type Backend, CpuBackend, Executor, OperatingError, present, Trace } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import type { GenerationResult } from '../../src/engine/request.js';
import { failingDevice } from '../helpers/failing-device.js';
import { ALL_NVME, fixtureFolder, openPlaced } from './run-model.js';

const NEW_TOKENS = 6;
/** Only where a sum is lost: a busy machine must not be taken for a device that hangs. */
const SHORT_MS = 400;
const LONG_MS = 600_000;

interface Broken {
  readonly broken: (backend: Backend) => Backend;
  readonly patienceMs: number;
}

async function together(devices: number, deviceResident: number, { broken, patienceMs }: Broken) {
  const placement = {
    ...{ ...ALL_NVME, sharedBy: devices, cpu: { virtualDevices: devices, threads: 2 } },
    plan: { deviceResident: { layers: deviceResident } },
  };
  const opened = await openPlaced(fixtureFolder('llama'), placement);
  const workload = { sequences: 2, contextTokens: 40, promptTokens: 32, output: 'tokens' } as const;
  const engine = await Engine.open(opened, { ...placement, workload });
  const { plan } = engine;
  await engine.close();
  const backend = broken(new CpuBackend(placement.cpu));
  const executor = await Executor.create({
    ...{ model: opened.model, plan, backend, paths: opened.checkpoint.files },
    ...{ trace: new Trace(false), patienceMs },
  });
  const finished: GenerationResult[] = [];
  const run = () =>
    generate(
      executor,
      Array.from({ length: 60 }, (_, index) => ({ index, promptTokens: Int32Array.of(5, 9, 3 + index) })),
      {
        ...{ batchSize: 2, maxNewTokens: NEW_TOKENS, stopTokens: new Set<number>() },
        onFinished: (result) => finished.push(result),
      },
    );
  return { executor, backend, finished, run };
}

/** One device's `skipped`-th sum is lost. */
function losesSum(backend: Backend, device: number, skipped: number): Backend {
  const { compute } = present(backend.devices[device], 'device');
  const launch = compute.launch.bind(compute);
  let sums = 0;
  compute.launch = (op) => {
    if (op.op === 'reduce' && ++sums === skipped) return;
    launch(op);
  };
  return backend;
}

describe.each([
  [2, 0],
  [2, 100],
  [4, 100],
])('%i devices, %i layers at rest', (devices, atRest) => {
  it('one fails between two sums: all end with its one error, and what was finished was told', async () => {
    const failing = (backend: Backend) => failingDevice(backend, devices - 1, 600);
    const { executor, backend, finished, run } = await together(devices, atRest, {
      broken: failing,
      patienceMs: LONG_MS,
    });
    const error: unknown = await run().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(OperatingError);
    expect(error).toMatchObject({ code: 'DEVICE_FAILED' });
    expect((error as Error).message).toMatch(
      new RegExp(`^a device failed: .*cpu:${devices - 1} compute.*gather_rows: row 1000`),
    );
    expect(finished.length).toBeGreaterThan(0);
    expect(finished.length).toBeLessThan(60);
    expect(executor.leasedBuffers).toBe(0);
    await backend.close();
  });

  it('a sum never completes: who waits is named, nothing hangs, and no later text comes of it', async () => {
    const losing = (backend: Backend) => losesSum(backend, 1, 31);
    const { executor, backend, finished, run } = await together(devices, atRest, {
      broken: losing,
      patienceMs: SHORT_MS,
    });
    const hung = await run().catch((thrown: unknown) => thrown);
    expect(hung).toMatchObject({ code: 'DEVICE_FAILED' });
    expect((hung as Error).message).toMatch(
      /^a device hangs: cpu:\d( and cpu:\d)* (has|have) not computed .+, although all of it is there/,
    );
    expect(executor.leasedBuffers).toBe(0);
    const before = finished.length;
    await expect(run()).rejects.toMatchObject({ code: 'DEVICE_FAILED' });
    expect(finished).toHaveLength(before);
    await backend.close();
  });
});
