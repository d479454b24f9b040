// Several drives behind one reader: each has a queue and a depth of its own, so that none waits for another.

import { statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { describe, expect, it } from 'vitest';
import {
  ALIGNMENT,
  allocate,
  batch,
  ENGINES,
  folder,
  makeFile,
  makeIo,
  memoryFolder,
  type ReadWords,
  random,
  same,
  useIo,
} from './io-helpers.js';

useIo();

const hasTwo = statSync(tmpdir()).dev !== statSync('/dev/shm').dev;

describe.skipIf(!hasTwo).each(ENGINES)('two drives through %s (needs /dev/shm)', (engine) => {
  it('have numbers of their own', () => {
    const io = makeIo({ engine });
    const numbers = [makeFile(ALIGNMENT), makeFile(ALIGNMENT), makeFile(ALIGNMENT, memoryFolder)].map(
      ({ path }) => io.open(path).drive,
    );
    expect(numbers).toEqual([0, 0, 1]);
  });

  it('a long batch of one does not hold back the other', async () => {
    const io = makeIo({ engine, queueDepth: 1, chunkBytes: ALIGNMENT });
    const [long, brief] = [makeFile(16 << 20), makeFile(ALIGNMENT, memoryFolder)];
    const [longFile, briefFile] = [io.open(long.path).file, io.open(brief.path).file];
    const { memory, bytes } = allocate(long.bytes.length + ALIGNMENT);
    const order: string[] = [];
    const read = (name: string, words: ReadWords) => io.read(batch(words)).then(() => order.push(name));
    await Promise.all([
      read('long', [longFile, 0, long.bytes.length, long.bytes.length, memory.id, 0]),
      read('brief', [briefFile, 0, ALIGNMENT, ALIGNMENT, memory.id, long.bytes.length]),
    ]);
    expect(order).toEqual(['brief', 'long']);
    same(bytes.subarray(long.bytes.length), brief.bytes);
    same(bytes.subarray(0, long.bytes.length), long.bytes);
  });

  it('batches of pieces of both, with faults between', async () => {
    const io = makeIo({ engine, queueDepth: 3, faults: { shortEveryN: 3, eagainEveryN: 5 } });
    const files = [makeFile(1 << 20), makeFile(1 << 20, memoryFolder)].map((file) => ({
      ...file,
      id: io.open(file.path).file,
    }));
    const below = random(17);
    const { memory, bytes } = allocate(4 << 20);
    await Promise.all(
      Array.from({ length: 4 }, async (_, part) => {
        const pieces = Array.from({ length: 40 }, (_piece, index) => {
          const { id, bytes: content } = files[below(2)] ?? files[0] ?? { id: 0, bytes: Buffer.alloc(0) };
          const size = (1 + below(6)) * ALIGNMENT;
          const offset = below((content.length - size) / ALIGNMENT) * ALIGNMENT;
          return { id, content, size, offset, at: (part << 20) + index * 6 * ALIGNMENT };
        });
        await io.read(
          batch(...pieces.map((p): ReadWords => [p.id, p.offset, p.size, p.size, memory.id, p.at])),
        );
        for (const { content, size, offset, at } of pieces) {
          same(bytes.subarray(at, at + size), content.subarray(offset, offset + size));
        }
      }),
    );
    const { drives, bytes: total } = io.stats();
    expect(drives).toHaveLength(2);
    expect(drives.reduce((sum, drive) => sum + drive.bytes, 0)).toBe(total);
    for (const { busyMs } of drives) expect(busyMs).toBeGreaterThan(0);
  });

  it('what one refuses fails the batch, and the other goes on', async () => {
    const io = makeIo({
      engine,
      faults: { errorAtFileOffset: { offset: 3 << 20, errno: 5 } },
    });
    const [good, bad] = [makeFile(1 << 20), makeFile(4 << 20, memoryFolder)];
    const [goodFile, badFile] = [io.open(good.path).file, io.open(bad.path).file];
    const { memory } = allocate(5 << 20);
    const goodRead: ReadWords = [goodFile, 0, 1 << 20, 1 << 20, memory.id, 0];
    const both = io.read(batch(goodRead, [badFile, 0, 4 << 20, 4 << 20, memory.id, 1 << 20]));
    await expect(both).rejects.toMatchObject({ errnoName: 'EIO', file: badFile });
    expect((await io.read(batch(goodRead))).bytes).toBe(1 << 20);
  });

  it('closing drops what both have queued', async () => {
    const io = makeIo({ engine, queueDepth: 1, chunkBytes: ALIGNMENT });
    const [one, other] = [makeFile(8 << 20), makeFile(8 << 20, memoryFolder)];
    const { memory } = allocate(16 << 20);
    const reads = [one, other].map(({ path, bytes }, index): ReadWords => {
      const { file } = io.open(path);
      return [file, 0, bytes.length, bytes.length, memory.id, index * bytes.length];
    });
    const ended = Promise.allSettled([io.read(batch(...reads)), io.read(batch(...reads), true)]);
    await io.close();
    for (const outcome of await ended) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: { errnoName: 'ECANCELED' } });
    }
  });
});

it('files of one folder are of one drive', async () => {
  const io = makeIo();
  for (let i = 0; i < 3; i++) io.open(makeFile(ALIGNMENT, folder).path);
  expect(io.stats().drives).toHaveLength(1);
});
