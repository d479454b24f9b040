// A device that failed: every promise says why, work is dropped, and nothing crashes. A file, and so a process, of its own.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/port/native.js';
import { gpuBench, gpuStream, HAS_GPU } from './cuda-device.js';

describe.skipIf(!HAS_GPU)('a fault on the GPU', () => {
  it('names the index that was wrong, for this and every later event, on all streams', async () => {
    const bench = gpuBench(1);
    const table = bench.weight('bf16', [5, 8]);
    const out = bench.activation([3, 8]);
    const good = { op: 'gather_rows', out, table, accumulate: false, scale: 1 } as const;
    const stream = gpuStream();
    stream.launch(encodeOp({ ...good, rows: bench.index([0, 4, 2]) }));
    await stream.record().promise();

    stream.launch(encodeOp({ ...good, rows: bench.index([0, 99, 2]) }));
    const failed = stream.record();
    const message = /row 99 of token 1 is outside the table of 5 rows/;
    await expect(failed.promise()).rejects.toThrow(message);
    expect(failed.done).toBe(false);
    expect(failed.timeMs).toBeNaN();
    stream.launch(encodeOp({ ...good, rows: bench.index([0, 1, 2]) }));
    await expect(stream.record().promise()).rejects.toThrow(message);

    const other = new (native().NativeCudaStream)(0, 'other', true);
    await expect(other.record().promise()).rejects.toThrow(message);
    await other.close();
    expect(() => other.record()).toThrow(/closed/);
  });
});

describe('without a GPU', () => {
  it.skipIf(HAS_GPU)('status says in a sentence what is missing, and the rest throws it', () => {
    const { problem } = native().cudaStatus();
    expect(problem).toMatch(/driver|GPU|nvcc|cuBLASLt/);
    expect(() => new (native().NativeCudaStream)(0, 'none', true)).toThrow();
    expect(() => new (native().NativeDeviceMemory)(0, 64)).toThrow();
  });
});
