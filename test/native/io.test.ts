// The read engine against real files: contents, every fallback, every fault, close and teardown.

import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type IoEngine,
  type IoFailure,
  type IoOptions,
  type NativeIo,
  type NativeMemory,
  native,
} from '../../offload/native.js';

const { errno } = constants;
const ALIGNMENT = 4096;
const OPTIONS: IoOptions = {
  engine: 'auto',
  queueDepth: 8,
  blockBytes: 16384,
  direct: true,
  fixedBuffers: true,
};
const ENGINES: readonly IoEngine[] = ['io_uring', 'threads'];

/** Deterministic bytes that differ at every offset a misplaced block could come from. */
function pattern(sizeBytes: number, seed: number): Buffer {
  const bytes = Buffer.alloc(sizeBytes);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let at = 0; at < sizeBytes; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}

function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
    return state % below;
  };
}

const roundDown = (value: number, to: number) => Math.floor(value / to) * to;
const roundUp = (value: number, to: number) => Math.ceil(value / to) * to;

interface TestFile {
  readonly path: string;
  readonly bytes: Buffer;
}

let folder: string;
let memoryFolder: string;
let fileCount = 0;
const opened: NativeIo[] = [];

function makeFile(sizeBytes: number, inFolder = folder): TestFile {
  const path = join(inFolder, `data-${fileCount++}`);
  const bytes = pattern(sizeBytes, fileCount);
  writeFileSync(path, bytes);
  return { path, bytes };
}

function makeIo(options: Partial<IoOptions> = {}): NativeIo {
  const io = native().createIo({ ...OPTIONS, ...options });
  opened.push(io);
  return io;
}

function allocate(sizeBytes: number): { memory: NativeMemory; bytes: Uint8Array } {
  const memory = new (native().NativeMemory)(sizeBytes, false);
  return { memory, bytes: new Uint8Array(memory.view(0, sizeBytes)) };
}

type ReadWords = [
  file: number,
  offset: number,
  size: number,
  required: number,
  memory: number,
  memoryOffset: number,
];
const batch = (...reads: ReadWords[]) => new Float64Array(reads.flat());

async function failure(promise: Promise<unknown>): Promise<IoFailure & Error> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(outcome).toBeInstanceOf(Error);
  return outcome as IoFailure & Error;
}

function same(actual: Uint8Array, expected: Uint8Array): void {
  // A plain comparison: a diff of megabytes helps nobody.
  expect(Buffer.compare(actual, expected)).toBe(0);
}

beforeAll(() => {
  // Beside the addon rather than in the system's temporary folder, which may be in memory.
  folder = mkdtempSync(fileURLToPath(new URL('../../native/build/io-test-', import.meta.url)));
  memoryFolder = mkdtempSync(join('/dev/shm', 'io-test-'));
});

afterEach(async () => {
  await Promise.all(opened.splice(0).map((io) => io.close()));
});

afterAll(() => {
  rmSync(folder, { recursive: true });
  rmSync(memoryFolder, { recursive: true });
});

/** Reads the whole file, as the aligned superset that a direct read needs, and compares it. */
async function readWhole(io: NativeIo, { path, bytes }: TestFile, register = true): Promise<void> {
  const file = io.open(path);
  const sizeBytes = roundUp(Math.max(bytes.length, 1), ALIGNMENT);
  const block = allocate(sizeBytes);
  if (register) io.register(block.memory);
  const span = await io.read(batch([file.file, 0, sizeBytes, bytes.length, block.memory.id, 0]));
  same(block.bytes.subarray(0, bytes.length), bytes);
  expect(span.bytes).toBe(bytes.length);
  expect(span.endMs).toBeGreaterThanOrEqual(span.startMs);
  io.closeFile(file.file);
}

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
    const io = makeIo({ engine, queueDepth: 1, blockBytes: 4096 });
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
    const io = makeIo({ engine, queueDepth: 1, blockBytes: 4096 });
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
    expect(error.stack).toContain('io.test');
    expect((await before).bytes).toBe(good.bytes.length);
    same(other.bytes, good.bytes);
    await after;
    // The rest of the failed batch was dropped, not read.
    expect(io.stats().bytes).toBeLessThan(data.bytes.length);
  });

  it('nothing writes into memory after a rejection', async () => {
    const io = makeIo({
      engine,
      blockBytes: 4096,
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
    expect(() => makeIo({ blockBytes: 1000 })).toThrow(RangeError);
    expect(() => makeIo({ blockBytes: 2 ** 32 })).toThrow(RangeError);
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

describe.each(ENGINES)('close of %s', (engine) => {
  it('rejects what is queued, finishes what is in flight, and may be called again', async () => {
    const io = makeIo({ engine, queueDepth: 2, blockBytes: 4096 });
    const data = makeFile(1 << 20);
    const file = io.open(data.path);
    const { memory } = allocate(1 << 20);
    const words = batch([file.file, 0, 1 << 20, 1 << 20, memory.id, 0]);
    const reads = Array.from({ length: 20 }, () => io.read(words));
    const outcomes = Promise.allSettled(reads);
    const closing = [io.close(), io.close()];
    const settled = await outcomes;
    await Promise.all(closing);
    const last = settled.at(-1);
    expect(last).toMatchObject({ status: 'rejected', reason: { errnoName: 'ECANCELED' } });
    await io.close();
    expect(await failure(io.read(words))).toMatchObject({ errnoName: 'ECANCELED' });
    expect(() => io.open(data.path)).toThrow(expect.objectContaining({ code: 'ECANCELED' }));
    expect(() => io.register(memory)).toThrow(expect.objectContaining({ code: 'ECANCELED' }));
    io.unregister(memory);
    io.closeFile(file.file);
    expect(io.stats().bytes).toBeGreaterThanOrEqual(0);
  });

  it('frees its descriptors', async () => {
    const data = makeFile(20_000);
    const countOf = (what: string) =>
      Number(execFileSync('sh', ['-c', `ls /proc/${process.pid}/${what} | wc -l`]));
    const round = async () => {
      const io = makeIo({ engine });
      io.open(data.path);
      await readWhole(io, data);
      await io.close();
    };
    await round();
    const before = countOf('fd');
    for (let count = 0; count < 20; count++) await round();
    expect(countOf('fd')).toBeLessThan(before + 10);
  });

  it('a reader that is never closed neither holds the process nor crashes its exit', () => {
    const data = makeFile(1 << 20);
    runScript(
      `${script(engine, data.path)}
       start();`,
    );
  });

  it('process.exit while reads are in flight', () => {
    const data = makeFile(1 << 20);
    runScript(
      `${script(engine, data.path)}
       start(); process.exit(0);`,
    );
  });
});

const ADDON = fileURLToPath(new URL('../../native/build/Release/zero_inference.node', import.meta.url));

/** Plain JavaScript that loads the addon and defines start(), which queues 64 MiB of reads. */
function script(engine: IoEngine, path: string): string {
  return `
    const addon = require(${JSON.stringify(ADDON)});
    const io = addon.createIo({ engine: '${engine}', queueDepth: 8, blockBytes: 16384, direct: true, fixedBuffers: true });
    const memory = new addon.NativeMemory(1 << 20, false);
    io.register(memory);
    const { file } = io.open(${JSON.stringify(path)});
    function start() {
      const words = Array.from({ length: 64 }, () => [file, 0, 1 << 20, 1 << 20, memory.id, 0]).flat();
      return io.read(new Float64Array(words));
    }`;
}

/** In a process of its own, so that a crash or a hang is this test's failure and no other's. */
function runScript(source: string): void {
  execFileSync(process.execPath, ['-e', source], { timeout: 30_000, stdio: ['ignore', 'pipe', 'inherit'] });
}
