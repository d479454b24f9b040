// The read engine where the system misbehaves: short reads, errors, shrunk files, and what it may refuse.

import { truncateSync } from 'node:fs';
import { constants } from 'node:os';
import { describe, expect, it } from 'vitest';
import { native } from '../../offload/port/native.js';
import {
  ALIGNMENT,
  allocate,
  batch,
  ENGINES,
  failure,
  makeFile,
  makeIo,
  readWhole,
  roundUp,
  same,
  useIo,
} from './io-helpers.js';

const { errno } = constants;

useIo();

describe.each(ENGINES)('faults in %s', (engine) => {
  const cases = [true, false].map((direct) => [direct ? 'direct' : 'buffered', direct] as const);

  it.each(cases)('short reads are continued (%s)', async (_, direct) => {
    const io = makeIo({ engine, direct, faults: { shortEveryN: 2 } });
    await readWhole(io, makeFile(500_001));
    expect(io.stats().shortReads).toBeGreaterThan(5);
  });

  it.each(cases)('EAGAIN is retried (%s)', async (_, direct) => {
    const io = makeIo({ engine, direct, faults: { eagainEveryN: 3 } });
    await readWhole(io, makeFile(500_001));
    expect(io.stats().retries).toBeGreaterThan(5);
  });

  it('short reads and EAGAIN together, through fixed buffers or not', async () => {
    for (const fixedBuffers of [true, false]) {
      const io = makeIo({ engine, fixedBuffers, faults: { shortEveryN: 3, eagainEveryN: 4 } });
      await readWhole(io, makeFile(300_001));
    }
  });

  it('endless EAGAIN fails instead of spinning for ever', async () => {
    const io = makeIo({ engine, faults: { eagainEveryN: 1 } });
    const file = io.open(makeFile(4096).path);
    const { memory } = allocate(4096);
    const error = await failure(io.read(batch([file.file, 0, 4096, 4096, memory.id, 0])));
    expect(error.errnoName).toBe('EAGAIN');
  });

  it('an error names errno, file and offset, and spares other batches', async () => {
    const offset = 5 * 16384 + 77;
    const io = makeIo({ engine, queueDepth: 4, faults: { errorAtFileOffset: { offset, errno: errno.EIO } } });
    const data = makeFile(40 * 16384);
    const good = makeFile(4 * 16384);
    const file = io.open(data.path);
    const goodFile = io.open(good.path);
    const { memory } = allocate(data.bytes.length);
    const other = allocate(good.bytes.length);
    const before = io.read(batch([goodFile.file, 0, good.bytes.length, 0, other.memory.id, 0]));
    const failing = failure(io.read(batch([file.file, 0, data.bytes.length, 0, memory.id, 0])));
    const after = io.read(batch([file.file, 8 * 16384, 65_536, 65_536, memory.id, 0]));
    const error = await failing;
    expect(error).toMatchObject({ errnoName: 'EIO', file: file.file, fileOffset: 5 * 16384 });
    expect(error.message).toContain(data.path);
    expect(error.message).toContain('EIO');
    expect(error.stack).toContain('io-faults.test');
    expect((await before).bytes).toBe(good.bytes.length);
    same(other.bytes, good.bytes);
    await after;
    // The rest of the failed batch was dropped, not read.
    expect(io.stats().bytes).toBeLessThan(data.bytes.length);
  });

  it('nothing writes into memory after a rejection', async () => {
    const io = makeIo({
      engine,
      chunkBytes: 4096,
      queueDepth: 32,
      faults: { errorAtFileOffset: { offset: 0, errno: errno.EIO } },
    });
    const data = makeFile(1 << 20);
    const file = io.open(data.path);
    const { memory, bytes } = allocate(1 << 20);
    for (let round = 0; round < 20; round++) {
      await failure(io.read(batch([file.file, 0, 1 << 20, 1 << 20, memory.id, 0])));
      bytes.fill(0);
      // A read of other memory gives stray writes the time of a full read to show.
      const other = allocate(65_536);
      await io.read(batch([file.file, 65_536, 65_536, 65_536, other.memory.id, 0]));
      expect(bytes.every((byte) => byte === 0)).toBe(true);
    }
  });

  it.each(cases)('a file truncated after open gives ESHORT (%s)', async (_, direct) => {
    const io = makeIo({ engine, direct });
    const data = makeFile(100_000);
    const file = io.open(data.path);
    truncateSync(data.path, 50_000);
    const { memory } = allocate(102_400);
    const error = await failure(io.read(batch([file.file, 0, 102_400, 100_000, memory.id, 0])));
    expect(error).toMatchObject({ errnoName: 'ESHORT', file: file.file });
    expect(error.message).toContain('truncated');
    // What is left is still readable, and the superset may still reach beyond the end.
    expect((await io.read(batch([file.file, 0, 53_248, 50_000, memory.id, 0]))).bytes).toBe(50_000);
    const all = await failure(io.read(batch([file.file, 98_304, 4096, 1, memory.id, 0])));
    expect(all).toMatchObject({ errnoName: 'ESHORT', fileOffset: 98_304 });
  });
});

describe('fallbacks', () => {
  it('no io_uring: threads, and a note', async () => {
    const io = makeIo({ faults: { ringInitErrno: errno.EPERM } });
    expect(io.engine).toBe('threads');
    expect(io.notes).toHaveLength(1);
    expect(io.notes[0]).toContain('EPERM');
    expect(io.notes[0]).toContain('seccomp');
    await readWhole(io, makeFile(100_001));
    expect(io.notes).toHaveLength(1);
  });

  it('io_uring forced but not available throws', () => {
    const create = () => makeIo({ engine: 'io_uring', faults: { ringInitErrno: errno.ENOSYS } });
    expect(create).toThrow(expect.objectContaining({ code: 'ENOSYS' }));
  });

  it('registration refused: false, one note, reads still work', async () => {
    const io = makeIo({ engine: 'io_uring', faults: { registerErrno: errno.ENOMEM } });
    const first = allocate(65_536);
    expect(io.register(first.memory)).toBe(false);
    expect(io.register(allocate(65_536).memory)).toBe(false);
    expect(io.notes).toHaveLength(1);
    expect(io.notes[0]).toContain('ulimit -l');
    await readWhole(io, makeFile(100_001));
  });

  it('registration not asked for: false, no note', () => {
    const io = makeIo({ engine: 'io_uring', fixedBuffers: false });
    expect(io.register(allocate(4096).memory)).toBe(false);
    expect(io.notes).toEqual([]);
  });

  it.each(['directOpenErrno', 'directReadErrno'] as const)(
    'O_DIRECT refused (%s): buffered, and a note',
    async (fault) => {
      for (const engine of ENGINES) {
        const io = makeIo({ engine, faults: { [fault]: errno.EINVAL } });
        const data = makeFile(100_001);
        expect(io.open(data.path)).toMatchObject({ direct: false, alignmentBytes: 1 });
        await readWhole(io, data);
        await readWhole(io, makeFile(5));
        expect(io.notes).toHaveLength(1);
        expect(io.notes[0]).toContain('O_DIRECT');
      }
    },
  );

  it('registers, unregisters and registers again while reads go on', async () => {
    const io = makeIo({ engine: 'io_uring' });
    const data = makeFile(400_001);
    const file = io.open(data.path);
    const sizeBytes = roundUp(400_001, ALIGNMENT);
    const blocks = Array.from({ length: 4 }, () => allocate(sizeBytes));
    for (let round = 0; round < 10; round++) {
      const reads = blocks.map(({ memory, bytes }, index) => {
        bytes.fill(0);
        if ((round + index) % 3 !== 0) io.register(memory);
        const reading = io.read(batch([file.file, 0, sizeBytes, 400_001, memory.id, 0]));
        if ((round + index) % 2 !== 0) io.unregister(memory);
        return reading;
      });
      await Promise.all(reads);
      for (const { bytes } of blocks) same(bytes.subarray(0, 400_001), data.bytes);
    }
    expect(io.notes).toEqual([]);
  });

  it('memory beyond the size of one registered buffer', async () => {
    const io = makeIo({ engine: 'io_uring' });
    const data = makeFile(200_704);
    const file = io.open(data.path);
    const sizeBytes = 2 ** 30 + 2 ** 21;
    const memory = new (native().NativeMemory)(sizeBytes, true);
    expect(io.register(memory)).toBe(true);
    // Before, across and behind the boundary between the two slots.
    for (const start of [2 ** 30 - 200_704, 2 ** 30 - 102_400, 2 ** 30, sizeBytes - 200_704]) {
      await io.read(batch([file.file, 0, 200_704, 200_704, memory.id, start]));
      same(new Uint8Array(memory.view(start, 200_704)), data.bytes);
    }
    io.unregister(memory);
    memory.free();
  });

  it('more files than the ring has slots for', async () => {
    const io = makeIo({ engine: 'io_uring' });
    const data = makeFile(4096);
    const files = Array.from({ length: 600 }, () => io.open(data.path));
    const block = allocate(4096);
    for (const file of [files[0], files[511], files[512], files[599]]) {
      if (!file) throw new Error('unreachable');
      block.bytes.fill(0);
      await io.read(batch([file.file, 0, 4096, 4096, block.memory.id, 0]));
      same(block.bytes, data.bytes);
    }
    for (const file of files) io.closeFile(file.file);
    await readWhole(io, data);
  });
});
