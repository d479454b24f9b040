// The end of the read engine: close, exit and teardown while reads are in flight.

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { native } from '../../offload/port/native.js';
import type { IoEngine } from '../../offload/port/native-io.js';
import { HANG_MS } from '../helpers/hang.js';
import { allocate, batch, ENGINES, failure, makeFile, makeIo, readWhole, useIo } from './io-helpers.js';

useIo();

describe.each(ENGINES)('close of %s', (engine) => {
  it('rejects what is queued, finishes what is in flight, and may be called again', async () => {
    const io = makeIo({ engine, queueDepth: 2, chunkBytes: 4096 });
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

  it('reads on what comes back short meanwhile', async () => {
    const data = makeFile(1 << 16);
    const { memory } = allocate(1 << 16);
    for (let round = 0; round < 200; round++) {
      const io = makeIo({ engine, queueDepth: 4, faults: { shortEveryN: 2 + (round % 2) } });
      const file = io.open(data.path);
      const read = io.read(batch([file.file, 0, 1 << 16, 1 << 16, memory.id, 0]));
      // Its only chunk is taken at once, and closing finds nothing that waits.
      const waited = performance.now() + 0.02 * (round % 5);
      while (performance.now() < waited);
      await Promise.all([io.close(), Promise.allSettled([read])]);
    }
  });

  it('keeps no memory, also while somebody keeps the reader', async () => {
    const data = makeFile(1 << 20);
    const io = makeIo({ engine });
    const file = io.open(data.path);
    const memory = new (native().NativeMemory)(1 << 20, false);
    const words = batch([file.file, 0, 1 << 20, 1 << 20, memory.id, 0]);
    io.register(memory);
    await io.read(words);
    memory.free();
    await io.close();
    const other = makeIo({ engine });
    other.open(data.path);
    expect(() => other.read(words)).toThrow(/freed/);
    expect(io.stats().bytes).toBe(1 << 20);
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

  it('a worker terminated while reads are in flight', () => {
    const data = makeFile(1 << 20);
    runScript(
      `const { Worker } = require('node:worker_threads');
       const source = ${JSON.stringify(`${script(engine, data.path)}
         start();
         require('node:worker_threads').parentPort.postMessage('reading');
         const again = () => start().then(again, () => {}); again(); again(); again();`)};
       (async () => {
         for (let round = 0; round < 15; round++) {
           const worker = new Worker(source, { eval: true });
           await new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject));
           await worker.terminate();
         }
       })();`,
    );
  });
});

const ADDON = fileURLToPath(new URL('../../native/build/Release/zero_inference.node', import.meta.url));

/** Plain JavaScript that loads the addon and defines start(), which queues 64 MiB of reads. */
function script(engine: IoEngine, path: string): string {
  return `
    const addon = require(${JSON.stringify(ADDON)});
    const io = addon.createIo({ engine: '${engine}', queueDepth: 8, chunkBytes: 16384, direct: true, fixedBuffers: true });
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
  execFileSync(process.execPath, ['-e', source], { timeout: HANG_MS, stdio: ['ignore', 'pipe', 'inherit'] });
}
