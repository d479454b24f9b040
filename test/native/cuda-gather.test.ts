// Layers on two GPUs: whole, gathered by peer copies and by NCCL, they hold the same bytes. Skipped with fewer GPUs.

import { describe, expect, it } from 'vitest';
import { CudaBackend } from '../../offload/backends/cuda.js';
import { present } from '../../offload/errors.js';
import { decideTransfer, makeTransfer, measureTransfer, OperatingError } from '../../offload/index.js';
import { type DeviceLayout, gatheredBytes } from '../../offload/model/layout.js';
import type { GatherBy } from '../../offload/plan/transfer.js';
import { native } from '../../offload/port/native.js';
import { type Arrival, queueTransfer } from '../../offload/stream/transfer.js';
import { MiB } from '../../offload/units.js';
import { randomFrom } from '../helpers/random.js';
import { HAS_GPU, HAS_NCCL, HAS_TWO_GPUS } from './cuda-device.js';

const DEVICES = [0, 1];
/** In blocks of 256 bytes: one shard empty, a late one shorter, and some as large as layers are. */
const SIZES = [1, 2, 3, 5, 64, 4097, 9 * 4096 + 1, 130 * 4096 + 7].map((blocks) => blocks * 256);
const ROUNDS = 3;

describe.skipIf(!HAS_TWO_GPUS)('two GPUs', () => {
  it.each(['none', 'peer'] as const)('gather %s: every byte on both, also in buffers used again', (by) =>
    gathersEveryByte(by),
  );

  it.skipIf(!HAS_NCCL)('gather nccl: every byte on both, also in buffers used again', () =>
    gathersEveryByte('nccl'),
  );

  it('which way is faster is measured, or said to be out of the question', async () => {
    const backend = new CudaBackend({ devices: DEVICES });
    try {
      const transfer = await decideTransfer(backend, 'auto');
      expect(transfer.reason).toMatch(/measured in \d+\.\d\d ms|no peer access/);
      expect(transfer).toMatchObject(makeTransfer(transfer.by, transfer.reason));
    } finally {
      await backend.close();
    }
  });

  it.skipIf(!HAS_NCCL)('NCCL takes memory that is counted, and works at its first time', async () => {
    const backend = new CudaBackend({ devices: DEVICES, nccl: true });
    try {
      const { deviceBytes } = present(backend.collective, 'NCCL');
      expect(deviceBytes).toBeGreaterThan(0);
      const times = await measureTransfer(backend, 'nccl');
      expect(times.shardsMs).toBeGreaterThan(0);
      expect(await decideTransfer(backend, 'nccl')).toMatchObject({ by: 'nccl', deviceBytes });
    } finally {
      await backend.close();
      await backend.close();
    }
  });

  it.skipIf(!HAS_NCCL)('a gather of what does not fit is refused, and the next one works', async () => {
    const backend = new CudaBackend({ devices: DEVICES, nccl: true });
    try {
      const collective = present(backend.collective, 'NCCL');
      const buffers = backend.devices.map((device) => device.allocate(1024));
      expect(() => collective.gather(buffers, 768)).toThrow(/2 shards of 768 bytes do not fit/);
      expect(() => collective.gather([...buffers].reverse(), 256)).toThrow(/not of its device/);
      expect(() => collective.gather(buffers.slice(1), 256)).toThrow(/each of the 2 devices/);
      collective.gather(buffers, 512);
      await Promise.all(backend.devices.map((device) => device.gather.record().reached()));
    } finally {
      await backend.close();
    }
  });
});

describe.skipIf(HAS_GPU)('without a GPU', () => {
  it('peers and NCCL say what is missing', () => {
    expect(() => native().cudaPeerAccess(DEVICES)).toThrow(/driver|nvcc|CUDA|GPU/i);
    expect(() => new (native().NativeGatherer)(DEVICES)).toThrow(/driver|nvcc|CUDA|GPU|NCCL/i);
    expect(() => new CudaBackend({ devices: DEVICES, nccl: true })).toThrow(OperatingError);
  });
});

/** Layers of every size one after the other through one buffer of each GPU, each with bytes of its own. */
async function gathersEveryByte(by: GatherBy): Promise<void> {
  const backend = new CudaBackend({ devices: DEVICES, nccl: by === 'nccl' });
  try {
    const most = Math.max(...SIZES);
    const random = randomFrom(7);
    const buffers = backend.devices.map((device) => device.allocate(gatheredBytes(most, DEVICES.length)));
    const results = backend.devices.map(() => backend.allocateHost(most, 'cache'));
    for (let round = 0; round < ROUNDS; round++) {
      for (const sizeBytes of SIZES) {
        const from = backend.allocateHost(sizeBytes, 'cache');
        const words = new Uint32Array(from.bytes.buffer, from.bytes.byteOffset, sizeBytes / 4);
        for (let i = 0; i < words.length; i++) words[i] = random() * 2 ** 32;
        const layout: DeviceLayout = {
          sizeBytes,
          placements: [],
          slices: [],
          copies: [{ hostOffset: 0, deviceOffset: 0, sizeBytes }],
        };
        const targets = buffers.map((buffer) => ({ buffer, after: [] }));
        const arrivals = queueTransfer({ backend, by, layout, from, targets, tell: () => undefined });
        await download(backend, buffers, results, sizeBytes, arrivals);
        for (const result of results) {
          const equal = Buffer.compare(result.bytes.subarray(0, sizeBytes), from.bytes) === 0;
          expect(equal, `${sizeBytes} bytes, round ${round}`).toBe(true);
        }
      }
    }
    expect(most).toBeGreaterThan(100 * MiB);
  } finally {
    await backend.close();
  }
}

async function download(
  backend: CudaBackend,
  buffers: readonly ReturnType<CudaBackend['devices'][number]['allocate']>[],
  results: readonly ReturnType<CudaBackend['allocateHost']>[],
  sizeBytes: number,
  arrivals: readonly Arrival[],
): Promise<void> {
  const done = backend.devices.map((device, g) => {
    const { fetched, gathered } = present(arrivals[g], 'arrival');
    device.compute.wait(fetched);
    device.compute.wait(gathered);
    device.compute.copy(present(results[g], 'result'), 0, present(buffers[g], 'buffer'), 0, sizeBytes);
    return device.compute.record();
  });
  await Promise.all(done.map((event) => event.reached()));
  // The next layer overwrites what the other GPU may still read from here.
  await Promise.all(arrivals.map(({ gathered }) => gathered.reached()));
}
