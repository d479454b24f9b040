// Does a model larger than the budget stay within it? Peak resident memory and growth of the page cache while generating.
//
// node dist/bench/bounded-memory.js [--shape llama-4b] [--dir out/bench]

import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { formatBytes, MiB } from '../offload/index.js';
import { dummyCheckpoint, printResult, readArguments } from './common.js';

const BUDGET_BYTES = 1024 * MiB;
const SLACK_BYTES = 300 * MiB;

const { shape, folder } = readArguments({ shape: 'llama-4b', runs: 1 });
await dummyCheckpoint(shape, folder);
const modelBytes = readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
const cachedBefore = cachedBytes();
const child = spawn(
  process.execPath,
  ['dist/src/main.js', '--name', folder, '--dram_memory', '1GiB', '--max_new_tokens', '2'],
  { stdio: ['ignore', 'ignore', 'inherit'] },
);
let peakBytes = 0;
const timer = setInterval(() => {
  peakBytes = Math.max(peakBytes, peakResidentBytes(child.pid ?? 0));
}, 20);
const status = await new Promise<number | null>((resolve) => child.on('exit', resolve));
clearInterval(timer);
if (status !== 0) throw new Error(`the run failed with status ${status}`);
const cacheGrowth = cachedBytes() - cachedBefore;
printResult(
  'bounded memory',
  `${formatBytes(modelBytes)} of weights, budget ${formatBytes(BUDGET_BYTES)}: peak ${formatBytes(peakBytes)} ` +
    `(bar ${formatBytes(BUDGET_BYTES + SLACK_BYTES)}), page cache grew by ${formatBytes(Math.max(0, cacheGrowth))}`,
  { shape, modelBytes, budgetBytes: BUDGET_BYTES, peakBytes, cacheGrowth },
);

/** The kernel's own high-water mark, so that no peak is missed between two looks. */
function peakResidentBytes(pid: number): number {
  try {
    const match = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return match ? Number(match[1]) * 1024 : 0;
  } catch {
    return 0; // it has just ended
  }
}

function cachedBytes(): number {
  const match = /^Cached:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'));
  return Number(match?.[1] ?? 0) * 1024;
}
