// The read engine against real files: contents, order, bounds and misuse.

import { closeSync, openSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { IoEngine } from '../../offload/port/native-io.js';
import {
  ALIGNMENT,
  allocate,
  batch,
  ENGINES,
  folder,
  makeFile,
  makeIo,
  memoryFolder,
  pattern,
  type ReadWords,
  random,
  readWhole,
  roundDown,
  roundUp,
  same,
  useIo,
} from './io-helpers.js';

useIo();

describe.each(ENGINES)('reads through %s', (engine) => {
  it.each([0, 1, 511, 4095, 4096, 4097, 16384, 16385, 1_000_003])('a file of %i bytes', async (sizeBytes) => {
    const io = makeIo({ engine });
    expect(io.engine).toBe(engine);
    await readWhole(io, makeFile(sizeBytes));
    expect(io.notes).toEqual([]);
  });

  it('buffered reads at any offset and size', async () => {
    const io = makeIo({ engine, direct: false });
    const data = makeFile(300_007);
    const file = io.open(data.path);
    expect(file).toMatchObject({ sizeBytes: 300_007, direct: false, alignmentBytes: 1 });
    const { memory, bytes } = allocate(1 << 20);
    await io.read(
      batch([file.file, 1, 40_001, 40_001, memory.id, 3], [file.file, 300_000, 7, 7, memory.id, 500_000]),
    );
    same(bytes.subarray(3, 40_004), data.bytes.subarray(1, 40_002));
    same(bytes.subarray(500_000, 500_007), data.bytes.subarray(300_000));
    expect(bytes[2]).toBe(0);
    expect(bytes[40_004]).toBe(0);
  });

  it('urgent batches before those that are queued', async () => {
    const io = makeIo({ engine, queueDepth: 1, chunkBytes: ALIGNMENT });
    const data = makeFile(16 << 20);
    const { file } = io.open(data.path);
    const { memory, bytes } = allocate(data.bytes.length + ALIGNMENT);
    const order: string[] = [];
    const ended = (name: string) => () => order.push(name);
    const whole = [file, 0, data.bytes.length, data.bytes.length, memory.id, 0] as const;
    const long = io.read(batch([...whole])).then(ended('long'));
    const row: ReadWords = [file, 5 * ALIGNMENT, ALIGNMENT, ALIGNMENT, memory.id, data.bytes.length];
    const urgent = io.read(batch(row), true).then(ended('urgent'));
    await Promise.all([long, urgent]);
    expect(order).toEqual(['urgent', 'long']);
    same(bytes.subarray(0, data.bytes.length), data.bytes);
    same(bytes.subarray(data.bytes.length), data.bytes.subarray(5 * ALIGNMENT, 6 * ALIGNMENT));
  });

  it('urgent batches that are canceled, as others', async () => {
    const io = makeIo({ engine, queueDepth: 1, chunkBytes: ALIGNMENT });
    const data = makeFile(16 << 20);
    const { file } = io.open(data.path);
    const { memory } = allocate(2 * data.bytes.length);
    const half = data.bytes.length;
    const reads = [false, true].map((urgent, index) =>
      io.read(batch([file, 0, half, half, memory.id, index * half]), urgent),
    );
    const ended = Promise.allSettled(reads);
    await io.close();
    const endings = await ended;
    expect(endings.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  });

  it('many random batches at once, over several files, into registered and plain memory', async () => {
    const io = makeIo({ engine, queueDepth: 16 });
    const next = random(7);
    const files = [700_001, 333_333, 65_536].map((size) => {
      const data = makeFile(size);
      return { data, file: io.open(data.path) };
    });
    const blocks = [allocate(4 << 20), allocate(4 << 20)];
    for (const { memory } of blocks.slice(0, 1)) io.register(memory);
    const used = blocks.map(() => 0);
    const checks: { at: Uint8Array; expected: Uint8Array }[] = [];
    const reads: Promise<unknown>[] = [];
    for (let index = 0; index < 60; index++) {
      const words: ReadWords[] = [];
      for (let count = 1 + next(3); count > 0; count--) {
        const source = files[next(files.length)];
        const which = next(blocks.length);
        const block = blocks[which];
        const start = used[which];
        if (!source || !block || start === undefined) throw new Error('unreachable');
        const { data, file } = source;
        const from = next(data.bytes.length);
        const to = Math.min(data.bytes.length, from + 1 + next(60_000));
        const offset = roundDown(from, file.alignmentBytes);
        const size = roundUp(to, file.alignmentBytes) - offset;
        if (start + size > block.bytes.length) continue;
        used[which] = roundUp(start + size, ALIGNMENT);
        words.push([file.file, offset, size, to - offset, block.memory.id, start]);
        const at = block.bytes.subarray(start, start + to - offset);
        checks.push({ at, expected: data.bytes.subarray(offset, to) });
      }
      reads.push(io.read(batch(...words)));
    }
    await Promise.all(reads);
    for (const { at, expected } of checks) same(at, expected);
    expect(checks.length).toBeGreaterThan(60);
    const stats = io.stats();
    expect(stats.maxInFlight).toBeGreaterThan(1);
    expect(stats.maxInFlight).toBeLessThanOrEqual(16);
    expect(stats.shortReads).toBe(0);
  });

  it('batches finish in the order in which they were queued', async () => {
    const io = makeIo({ engine, queueDepth: 1, chunkBytes: 4096 });
    const file = io.open(makeFile(65_536).path);
    const { memory } = allocate(65_536);
    const order: number[] = [];
    const sizes = [65_536, 4096, 32_768, 4096];
    await Promise.all(
      sizes.map((size, index) =>
        io.read(batch([file.file, 0, size, size, memory.id, 0])).then(() => order.push(index)),
      ),
    );
    expect(order).toEqual([0, 1, 2, 3]);
  });

  it('an empty batch, and reads of nothing', async () => {
    const io = makeIo({ engine });
    const { memory } = allocate(4096);
    const file = io.open(makeFile(100).path);
    expect((await io.read(new Float64Array())).bytes).toBe(0);
    expect((await io.read(batch([file.file, 0, 0, 0, memory.id, 4096]))).bytes).toBe(0);
  });

  it('a file that is closed or memory that is freed while its read is queued', async () => {
    const io = makeIo({ engine, queueDepth: 1, chunkBytes: 4096 });
    const data = makeFile(200_000);
    const file = io.open(data.path);
    const { memory, bytes } = allocate(200_704);
    const reading = io.read(batch([file.file, 0, 200_704, 200_000, memory.id, 0]));
    io.closeFile(file.file);
    memory.free();
    await reading;
    same(bytes.subarray(0, 200_000), data.bytes);
    expect(() => io.read(batch([file.file, 0, 4096, 4096, memory.id, 0]))).toThrow();
  });

  it('offsets beyond 4 GiB', async () => {
    const path = join(folder, 'sparse');
    const offset = 5 * 2 ** 30;
    const bytes = pattern(8192, 99);
    const fd = openSync(path, 'w');
    writeSync(fd, bytes, 0, bytes.length, offset);
    closeSync(fd);
    const io = makeIo({ engine });
    const file = io.open(path);
    expect(file.sizeBytes).toBe(offset + 8192);
    const block = allocate(8192);
    await io.read(batch([file.file, offset, 8192, 8192, block.memory.id, 0]));
    same(block.bytes, bytes);
  });

  it('files in memory (tmpfs)', async () => {
    const io = makeIo({ engine });
    await readWhole(io, makeFile(70_001, memoryFolder));
  });
});

describe('misuse', () => {
  const io = () => makeIo({ engine: 'io_uring' });
  const setUp = () => {
    const reader = io();
    const file = reader.open(makeFile(8192).path);
    const { memory } = allocate(8192);
    const attempt =
      (...words: ReadWords) =>
      () =>
        reader.read(batch(words));
    return { reader, file, memory, attempt };
  };

  it('bounds', () => {
    const { file, memory, attempt } = setUp();
    expect(attempt(file.file, 0, 12_288, 0, memory.id, 0)).toThrow(RangeError);
    expect(attempt(file.file, 0, 8192, 0, memory.id, 4096)).toThrow(RangeError);
    expect(attempt(file.file, 0, 4096, 0, memory.id, 2 ** 52)).toThrow(RangeError);
    expect(attempt(file.file, 0, 4096, 8192, memory.id, 0)).toThrow(RangeError);
  });

  it('unknown ids, misalignment, numbers that are no sizes', () => {
    const { reader, file, memory, attempt } = setUp();
    expect(attempt(99, 0, 4096, 0, memory.id, 0)).toThrow(TypeError);
    expect(attempt(file.file, 0, 4096, 0, 4_000_000_000, 0)).toThrow(TypeError);
    expect(attempt(2 ** 32 + file.file, 0, 4096, 0, memory.id, 0)).toThrow(TypeError);
    expect(file.direct).toBe(true);
    expect(attempt(file.file, 1, 4096, 0, memory.id, 0)).toThrow(TypeError);
    expect(attempt(file.file, 0, 100, 0, memory.id, 0)).toThrow(TypeError);
    expect(attempt(file.file, 0, 4096, 0, memory.id, 8)).toThrow(TypeError);
    expect(attempt(file.file, -4096, 4096, 0, memory.id, 0)).toThrow(TypeError);
    expect(attempt(file.file, Number.NaN, 4096, 0, memory.id, 0)).toThrow(TypeError);
    expect(() => reader.read(new Float64Array(5))).toThrow(TypeError);
    expect(() => reader.closeFile(99)).toThrow(TypeError);
    memory.free();
  });

  it('options', () => {
    expect(() => makeIo({ queueDepth: 0 })).toThrow(RangeError);
    expect(() => makeIo({ chunkBytes: 1000 })).toThrow(RangeError);
    expect(() => makeIo({ chunkBytes: 2 ** 32 })).toThrow(RangeError);
    expect(() => makeIo({ engine: 'libaio' as IoEngine })).toThrow(TypeError);
  });

  it('open', () => {
    const reader = io();
    const missing = () => reader.open(join(folder, 'missing'));
    expect(missing).toThrow(expect.objectContaining({ code: 'ENOENT' }));
    expect(missing).toThrow('missing');
    expect(() => reader.open(tmpdir())).toThrow(expect.objectContaining({ code: 'EISDIR' }));
    expect(() => reader.open('/dev/null')).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});
