// How long from the start of a process to the first token, with layers that come to rest on several devices? Beside the ring
// reading the same files alone, before and after each start.
//
// node dist/bench/ready.js [--shape opt-6.7b] [--type bfloat16] [--cut '{"num_hidden_layers":8}'] [--dir out/bench] [--runs 3]
//   [--device cuda|cpu] [--gpus 2] [--parallel tensor,pipeline,streams] [--folder FOLDER]
//
// Without GPUs, virtual devices of the processor take their place: the same reads, with copies within the host's memory.

import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatBytes, formatRate, MiB, pathsOf, present } from '../offload/index.js';
import { openModel } from '../src/engine/open-model.js';
import { dummyCheckpoint, median, percent, printResult, readShapeType } from './common.js';
import { secondsToFirstToken } from './first-token.js';
import { readAll } from './read-all.js';

const [PIECES, PIECE_BYTES] = [4, 64 * MiB];

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'opt-6.7b' },
    type: { type: 'string', default: 'bfloat16' },
    cut: { type: 'string', default: '{}' },
    dir: { type: 'string', default: 'out/bench' },
    runs: { type: 'string', default: '3' },
    device: { type: 'string', default: 'cuda' },
    gpus: { type: 'string', default: '2' },
    parallel: { type: 'string', default: 'tensor,pipeline,streams' },
    folder: { type: 'string' },
  },
});
const cut = JSON.parse(values.cut) as Record<string, unknown>;
const type = readShapeType(values.type);
const folder =
  values.folder ??
  (await dummyCheckpoint(
    values.shape,
    join(values.dir, [values.shape, ...(type === 'bfloat16' ? [] : [type]), ...Object.values(cut)].join('-')),
    type,
    cut,
  ));
const opened = await openModel(folder);
const paths = pathsOf(opened.checkpoint.files);

interface Start {
  readonly seconds: number;
  /** From the start of the process until the engine was open. */
  readonly readySeconds: number;
  /** Over all bytes of the files, by what was read. */
  readonly readShare: number;
  readonly ringSeconds: number;
}

for (const parallel of values.parallel.split(',')) {
  const starts: Start[] = [];
  let before = await ringSeconds();
  for (let run = 0; run < Number(values.runs); run++) {
    const start = await startOnce(parallel);
    const after = await ringSeconds();
    starts.push({ ...start, ringSeconds: (before + after) / 2 });
    before = after;
  }
  const ratio = median(starts.map(({ seconds, ringSeconds }) => seconds / ringSeconds));
  const of = (key: keyof Start) => median(starts.map((start) => start[key]));
  const { totalBytes } = opened.checkpoint;
  printResult(
    `start to first token, ${parallel}`,
    `${values.folder ?? `${values.shape} in ${type}`} on ${values.gpus} devices (${values.device}): ${of('seconds').toFixed(2)} s from ` +
      `the start of the process, open after ${of('readySeconds').toFixed(2)} s; the ring reads ${formatBytes(totalBytes)} in ` +
      `${of('ringSeconds').toFixed(2)} s (${formatRate(totalBytes / of('ringSeconds'))}): ${ratio.toFixed(3)} times that (bar 1.1); ` +
      `${percent(of('readShare'))} of the files' bytes were read`,
    { ...values, parallel, totalBytes, ratio, starts },
  );
}

/** One start, and what its report says. */
async function startOnce(parallel: string): Promise<Omit<Start, 'ringSeconds'>> {
  const report = join(tmpdir(), `zero-inference-ready-${process.pid}.json`);
  const devices =
    values.device === 'cuda'
      ? ['--device', 'cuda', '--num_gpus', values.gpus]
      : ['--virtual_devices', values.gpus];
  const rest = values.device === 'cuda' ? [] : ['--gpu_resident', '10000'];
  const words = ['--name', folder, ...devices, '--parallel', parallel, ...rest, '--max_new_tokens', '1'];
  const seconds = await secondsToFirstToken([...words, '--report', report]);
  const figures = JSON.parse(readFileSync(report, 'utf8')) as {
    readonly ready_seconds: number;
    readonly hops: readonly { readonly hop: string; readonly bytes: number }[];
  };
  const read = figures.hops.find(({ hop }) => hop === 'nvme→dram');
  const readShare = present(read, 'what was read').bytes / opened.checkpoint.totalBytes;
  return { seconds, readySeconds: figures.ready_seconds, readShare };
}

/** How long the read engine alone takes for all files, from beginning to end. */
async function ringSeconds(): Promise<number> {
  const startMs = performance.now();
  await readAll(paths, { pieceBytes: PIECE_BYTES, pieces: PIECES });
  return (performance.now() - startMs) / 1e3;
}
