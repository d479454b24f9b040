// How fast does the read engine stream a file, at what CPU share, and which chunk size and queue depth are enough?
//
//   node dist/bench/ring-read.js [--file PATH | --make-gib 2] [--engine auto,threads] [--chunk 262144,1048576]
//     [--depth 8,32] [--fixed true,false] [--rounds 3] [--layer-mib 256]
//
// Every combination is run once per round, in turn, so that the drive's moods fall on all of them alike. The limit that
// each is compared with is the fastest single pass of the same run.

import { randomFillSync } from 'node:crypto';
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { DEFAULT_IO_OPTIONS } from '../offload/backends/io-defaults.js';
import { native } from '../offload/port/native.js';
import type { IoEngine, IoOptions } from '../offload/port/native-io.js';

const GIB = 2 ** 30;
const MIB = 2 ** 20;

interface Pass {
  readonly gigabytesPerSecond: number;
  /** CPU time of this process ÷ wall time: 1 is one core. */
  readonly cpuShare: number;
}

interface Result extends Pass {
  readonly engine: IoEngine;
  readonly chunkBytes: number;
  readonly queueDepth: number;
  readonly fixed: boolean;
  readonly direct: boolean;
  readonly bestGigabytesPerSecond: number;
  readonly notes: readonly string[];
}

function makeFile(folder: string, sizeBytes: number): string {
  const path = join(folder, 'random');
  const fd = openSync(path, 'w');
  const chunk = Buffer.allocUnsafe(32 * MIB);
  for (let written = 0; written < sizeBytes; written += chunk.length) {
    randomFillSync(chunk);
    writeSync(fd, chunk);
  }
  fsyncSync(fd);
  closeSync(fd);
  return path;
}

/** Streams the whole file through two buffers of one layer each, the next read always queued behind the current one. */
async function stream(
  path: string,
  options: IoOptions,
  layerBytes: number,
): Promise<Pass & Omit<Result, keyof Pass | 'bestGigabytesPerSecond'>> {
  const io = native().createIo(options);
  const buffers = [0, 1].map(() => new (native().NativeMemory)(layerBytes, true));
  for (const memory of buffers) memory.populate(2);
  const fixed = buffers.map((memory) => io.register(memory)).every(Boolean);
  const file = io.open(path);
  const reads: Promise<unknown>[] = [];
  const cpuBefore = process.cpuUsage();
  const startMs = native().nowMs();
  let bytes = 0;
  for (let index = 0; bytes < file.sizeBytes; index++) {
    const memory = buffers[index % 2];
    if (!memory) throw new Error('unreachable');
    await reads[index - 2];
    const required = Math.min(layerBytes, file.sizeBytes - bytes);
    const size = Math.ceil(required / file.alignmentBytes) * file.alignmentBytes;
    reads.push(io.read(new Float64Array([file.file, bytes, size, required, memory.id, 0])));
    bytes += required;
  }
  await Promise.all(reads);
  const wallMs = native().nowMs() - startMs;
  const cpu = process.cpuUsage(cpuBefore);
  await io.close();
  for (const memory of buffers) memory.free();
  return {
    engine: io.engine,
    chunkBytes: options.chunkBytes,
    queueDepth: options.queueDepth,
    fixed,
    direct: file.direct,
    gigabytesPerSecond: bytes / wallMs / 1e6,
    cpuShare: (cpu.user + cpu.system) / 1000 / wallMs,
    notes: io.notes,
  };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

async function measure(
  path: string,
  choices: readonly IoOptions[],
  rounds: number,
  layerBytes: number,
): Promise<Result[]> {
  const passes = choices.map(() => [] as Awaited<ReturnType<typeof stream>>[]);
  for (let round = 0; round < rounds; round++) {
    for (const [index, options] of choices.entries()) {
      passes[index]?.push(await stream(path, options, layerBytes));
    }
  }
  return passes.flatMap((of) => {
    const [first] = of;
    if (!first) return [];
    const rates = of.map((pass) => pass.gigabytesPerSecond);
    return [
      {
        ...first,
        gigabytesPerSecond: median(rates),
        bestGigabytesPerSecond: Math.max(...rates),
        cpuShare: median(of.map((pass) => pass.cpuShare)),
      },
    ];
  });
}

function readable(result: Result, limit: number): string {
  const share = Math.round((100 * result.gigabytesPerSecond) / limit);
  return [
    result.engine.padEnd(8),
    `chunk ${String(result.chunkBytes / 1024).padStart(5)} KiB`,
    `depth ${String(result.queueDepth).padStart(3)}`,
    result.fixed ? 'fixed' : 'plain',
    result.direct ? 'direct' : 'buffered',
    `${result.gigabytesPerSecond.toFixed(2)} GB/s = ${String(share).padStart(3)} % of the limit ${limit.toFixed(2)}`,
    `CPU ${(100 * result.cpuShare).toFixed(1)} % of a core`,
  ].join('  ');
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      file: { type: 'string' },
      folder: { type: 'string', default: '.' },
      'make-gib': { type: 'string', default: '2' },
      engine: { type: 'string', default: DEFAULT_IO_OPTIONS.engine },
      chunk: { type: 'string', default: String(DEFAULT_IO_OPTIONS.chunkBytes) },
      depth: { type: 'string', default: String(DEFAULT_IO_OPTIONS.queueDepth) },
      fixed: { type: 'string', default: 'true' },
      direct: { type: 'string', default: 'true' },
      rounds: { type: 'string', default: '3' },
      'layer-mib': { type: 'string', default: '256' },
    },
  });
  const choices = values.engine.split(',').flatMap((engine) =>
    values.fixed.split(',').flatMap((fixed) =>
      values.chunk.split(',').flatMap((chunk) =>
        values.depth.split(',').map((depth) => ({
          engine: engine as IoOptions['engine'],
          queueDepth: Number(depth),
          chunkBytes: Number(chunk),
          direct: values.direct === 'true',
          fixedBuffers: fixed === 'true',
        })),
      ),
    ),
  );
  const folder = values.file ? undefined : mkdtempSync(join(values.folder, '.ring-read-'));
  try {
    const path = values.file ?? makeFile(folder ?? '.', Number(values['make-gib']) * GIB);
    const layerBytes = Number(values['layer-mib']) * MIB;
    const results = await measure(path, choices, Number(values.rounds), layerBytes);
    const limit = Math.max(...results.map((result) => result.bestGigabytesPerSecond));
    for (const result of results) console.error(readable(result, limit));
    console.log(JSON.stringify({ bench: 'ring-read', limitGigabytesPerSecond: limit, results }));
  } finally {
    if (folder) rmSync(folder, { recursive: true });
  }
}

await main();
