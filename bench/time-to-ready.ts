// How long from starting the process until it could generate, with a large checkpoint on disk? And to the first token?
//
// node dist/bench/time-to-ready.js [--shape llama-4b] [--dir out/bench] [--runs 5]

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dummyCheckpoint, median, printResult, readArguments } from './common.js';

const { shape, folder, runs } = readArguments({ shape: 'llama-4b', runs: 5 });
await dummyCheckpoint(shape, folder);
const report = join(tmpdir(), `zero-inference-ready-${process.pid}.json`);
const seconds: number[] = [];
for (let run = 0; run < runs; run++) {
  const args = ['dist/src/main.js', '--name', folder, '--nvme_offload_path', folder, '--max_new_tokens', '1'];
  const result = spawnSync(process.execPath, [...args, '--report', report], { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`the run failed: ${result.stderr}`);
  const { ready_seconds: ready } = JSON.parse(readFileSync(report, 'utf8')) as { ready_seconds: number };
  seconds.push(ready);
  process.stderr.write(`run ${run + 1}: ready after ${ready.toFixed(3)} s\n`);
}
printResult('time to ready', `${median(seconds).toFixed(3)} s (median of ${runs}; bar 1 s)`, {
  shape,
  seconds,
});
