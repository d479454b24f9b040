// One of two GPUs fails between gathers: no one waits for it, and both say why. A file, and so a process, of its own.

import { describe, expect, it } from 'vitest';
import { CudaBackend } from '../../offload/backends/cuda.js';
import { present } from '../../offload/errors.js';
import { tensor } from '../../offload/port/tensor.js';
import { HAS_NCCL, HAS_TWO_GPUS } from './cuda-device.js';

describe.skipIf(!HAS_TWO_GPUS)('the second of two GPUs fails', () => {
  it('gathers, waits and the end of both are told its one cause', async () => {
    const backend = new CudaBackend({ devices: [0, 1], nccl: HAS_NCCL });
    const [sound, broken] = backend.devices;
    const [first, second] = [present(sound, 'device'), present(broken, 'device')];
    const buffers = backend.devices.map((device) => device.allocate(1 << 20));
    backend.collective?.gather(buffers, 1 << 19);
    await Promise.all(backend.devices.map((device) => device.gather.record().reached()));

    const tables = backend.allocateHost(4096, 'control');
    new Int32Array(tables.bytes.buffer, tables.bytes.byteOffset, 1).fill(99);
    const waiting = first.fetch.record();
    second.compute.launch({
      op: 'gather_rows',
      out: tensor(present(buffers[1], 'buffer'), 0, 'f32', [1, 4]),
      table: tensor(tables, 2048, 'f32', [5, 4]),
      rows: tensor(tables, 0, 'i32', [1]),
      accumulate: false,
      scale: 1,
    });
    const cause = /^cuda:1: gather_rows: row 99 of token 0 is outside the table of 5 rows$/;
    await expect(second.compute.record().reached()).rejects.toThrow(cause);
    // Whatever is queued now ends, on either device.
    backend.collective?.gather(buffers, 1 << 19);
    first.gather.wait(second.compute.record());
    await expect(first.gather.record().reached()).rejects.toThrow(cause);
    await expect(second.gather.record().reached()).rejects.toThrow(cause);
    await expect(first.compute.record().reached()).rejects.toThrow(cause);
    await waiting.reached().catch(() => undefined);
    await backend.close();
    await expect(first.compute.record().reached()).rejects.toMatchObject({ code: 'INTERRUPTED' });
  });
});
