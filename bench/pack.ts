// How near does packing come to what the drive yields, and in how much memory?
//
//   node dist/bench/pack.js [--shape llama-0.85b] [--weights int4,int8,fp8] [--runs 3]
//
// The limit is measured beside each pack: the source read by itself and as many bytes as the store has written by
// themselves, each as packing does it. Where one drive does both, packing cannot take less than the longer of the two,
// and need not take more than both.

import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { MiB } from '../offload/index.js';
import { openModel } from '../src/engine/open-model.js';
import { DirectFile, stagingBuffer } from '../src/files/direct-file.js';
import { type PackOptions, pack } from '../src/pack/pack.js';
import { preparePack } from '../src/pack/prepare.js';
import { relativeLoss } from '../src/pack/record.js';
import { PACKED_WEIGHTS, type PackedWeights } from '../src/pack/scheme.js';
import { dummyCheckpoint, median, percent, printResult } from './common.js';
import { readAll } from './read-all.js';

const PIECE_BYTES = 32 * MiB;
const FOLDER = 'out/bench';

async function secondsOf(work: () => Promise<void>): Promise<number> {
  const startMs = performance.now();
  await work();
  return (performance.now() - startMs) / 1e3;
}

async function writeAll(path: string, sizeBytes: number): Promise<void> {
  const file = await DirectFile.create(path, stagingBuffer(8 * MiB));
  const piece = new Uint8Array(8 * MiB).fill(0x5a);
  for (let left = sizeBytes; left > 0; left -= piece.length) {
    await file.append(piece.subarray(0, Math.min(piece.length, left)));
  }
  await file.finish();
  rmSync(path);
}

async function measure(source: string, weights: PackedWeights, runs: number): Promise<void> {
  const { checkpoint } = await openModel(source);
  const prepared = await preparePack(checkpoint, { weights, groupSize: undefined, gpus: 1 });
  const folder = join(FOLDER, `packed-${weights}`);
  const options: PackOptions = { checkpoint, ...prepared, gpus: 1, folder };
  const storedBytes = prepared.plan.files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const packed: number[] = [];
  const [reads, writes, processor]: [number[], number[], number[]] = [[], [], []];
  let loss = 0;
  for (let run = 0; run < runs; run++) {
    rmSync(folder, { recursive: true, force: true });
    reads.push(await secondsOf(() => readAll(checkpoint.files, { pieceBytes: PIECE_BYTES, pieces: 3 })));
    writes.push(await secondsOf(() => writeAll(join(FOLDER, 'written'), storedBytes)));
    const before = process.cpuUsage();
    packed.push(
      await secondsOf(async () => {
        const layers = await pack(options);
        loss = Math.max(...layers.map(relativeLoss));
      }),
    );
    const { user, system } = process.cpuUsage(before);
    processor.push((user + system) / 1e6);
  }
  rmSync(folder, { recursive: true, force: true });
  const [seconds, readSeconds, writeSeconds] = [median(packed), median(reads), median(writes)];
  const sourceGb = prepared.plan.sourceBytes / 1e9;
  const peakMiB = process.resourceUsage().maxRSS / 1024;
  const least = Math.max(readSeconds, writeSeconds);
  printResult(
    `packing as ${weights}`,
    `${(sourceGb / seconds).toFixed(2)} GB/s of the source, ${percent(least / seconds)} of the longer of reading it ` +
      `(${(sourceGb / readSeconds).toFixed(2)} GB/s) and writing the store; ${percent((readSeconds + writeSeconds) / seconds)} ` +
      `of both in turn; ${(median(processor) / sourceGb).toFixed(2)} s of processor per GB, peak ${peakMiB.toFixed(0)} MiB`,
    {
      weights,
      seconds,
      readSeconds,
      writeSeconds,
      sourceGb,
      storedBytes,
      processorSeconds: median(processor),
      peakMiB,
      loss,
    },
  );
}

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'llama-0.85b' },
    weights: { type: 'string', default: PACKED_WEIGHTS.join(',') },
    runs: { type: 'string', default: '3' },
  },
});
const source = await dummyCheckpoint(values.shape, join(FOLDER, values.shape));
for (const weights of PACKED_WEIGHTS.filter((name) => values.weights.split(',').includes(name))) {
  await measure(source, weights, Number(values.runs));
}
