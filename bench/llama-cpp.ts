// Against llama.cpp on the same model in one run: with the model in memory, and with memory limited below the model.
//
// npm install --prefix bench/peers && node dist/bench/llama-cpp.js [--shape llama-0.85b] [--type int4] [--dir out/bench] [--runs 3]
//   [--cut JSON]
//
// A mixture (--shape qwen3-30b-a3b --cut '{"num_hidden_layers":6,"vocab_size":32768}') runs with memory limited to 28 % of it, as 16 GiB are of the whole
// model, and tokens are drawn, so that experts differ from step to step.
//
// The limited case needs root and control groups (version 1) of the memory controller.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { formatBytes, MiB } from '../offload/index.js';
import { openCheckpoint } from '../src/checkpoint/checkpoint.js';
import { dummyCheckpoint, median, printResult, readArguments } from './common.js';
import { writeGguf } from './gguf.js';
import { spreadRouting } from './gpu/repeated.js';

const PROMPT_TOKENS = 256;
const CGROUP = '/sys/fs/cgroup/memory/zero-inference-bench';
/** The process itself, beside the budget for weights and buffers. */
const PROCESS_BYTES = 250 * MiB;

interface Speeds {
  readonly prefill_tokens_per_second: number;
  readonly decode_tokens_per_second: number;
}

const { shape, type, folder, runs, cut } = readArguments({ shape: 'llama-0.85b', runs: 3 });
await dummyCheckpoint(shape, folder, type, cut);
// What is packed here meets Q4_0 there; the file is of the same shape in bf16.
const isPacked = type === 'int4';
const dense = isPacked ? join(dirname(folder), shape) : folder;
await dummyCheckpoint(shape, dense, 'bfloat16', cut);
const stored = await openCheckpoint(folder);
const isMixture = stored.config.num_experts !== undefined;
if (isMixture) await spreadRouting(folder);
const modelBytes = [...stored.tensors.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
const limitBytes = isMixture ? Math.round((0.28 * modelBytes) / MiB) * MiB : 1024 * MiB;
const temperature = isMixture ? 1 : 0;
const gguf = `${isPacked ? folder : dense}.gguf`;
if (!existsSync(gguf)) await writeGguf(dense, gguf, isPacked);

const rows: { where: string; batch: number; figure: string; own: number; peer: number; ratio: number }[] = [];
for (const limited of isMixture ? [true] : [false, true]) {
  for (const batch of isMixture ? [1] : [1, 32]) {
    const newTokens = isMixture ? 24 : limited ? 3 : batch === 1 ? 16 : 8;
    const pairs = Array.from({ length: runs }, () => ({
      own: run(
        limited,
        ['dist/bench/own-speed.js', folder],
        newTokens,
        batch,
        limited ? limitBytes - PROCESS_BYTES : 0,
      ),
      peer: run(limited, ['bench/peers/llama-cpp.mjs', gguf], newTokens, batch),
    }));
    for (const figure of ['prefill_tokens_per_second', 'decode_tokens_per_second'] as const) {
      if (figure === 'prefill_tokens_per_second' && batch !== 1) continue;
      const own = median(pairs.map((pair) => pair.own[figure]));
      const peer = median(pairs.map((pair) => pair.peer[figure]));
      const ratio = median(pairs.map((pair) => pair.own[figure] / pair.peer[figure]));
      rows.push({
        where: limited
          ? `memory limited to ${formatBytes(limitBytes)} of ${formatBytes(modelBytes)}`
          : 'in memory',
        batch,
        figure,
        own,
        peer,
        ratio,
      });
      process.stderr.write(`${JSON.stringify(rows.at(-1))}\n`);
    }
  }
}
const table = [
  `| ${shape} | batch | zero-inference tok/s | llama.cpp tok/s | ratio |`,
  '|---|---|---|---|---|',
  ...rows.map(
    ({ where, batch, figure, own, peer, ratio }) =>
      `| ${where}, ${figure.split('_')[0]} | ${batch} | ${own.toFixed(1)} | ${peer.toFixed(1)} | ${ratio.toFixed(2)} |`,
  ),
].join('\n');
printResult('llama.cpp', `\n${table}`, { shape, promptTokens: PROMPT_TOKENS, rows });

function run(
  limited: boolean,
  script: string[],
  newTokens: number,
  batch: number,
  ...more: number[]
): Speeds {
  const counts = [PROMPT_TOKENS, newTokens, batch, cpus().length, temperature, ...more].map(String);
  const command = [process.execPath, ...script, ...counts];
  const { status, stdout, stderr } = limited
    ? inCgroup(command)
    : spawnSync(command[0] ?? '', command.slice(1), { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${script[0]} failed: ${stderr}`);
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Speeds;
}

/** Page cache counts towards the limit, so a mapped model must be read again and again. */
function inCgroup(command: readonly string[]) {
  mkdirSync(CGROUP, { recursive: true });
  writeFileSync(`${CGROUP}/memory.limit_in_bytes`, String(limitBytes));
  dropCache();
  const quoted = command.map((part) => `'${part}'`).join(' ');
  const result = spawnSync('sh', ['-c', `echo $$ > ${CGROUP}/cgroup.procs && exec ${quoted}`], {
    encoding: 'utf8',
  });
  if (readFileSync(`${CGROUP}/cgroup.procs`, 'utf8') === '') rmdirSync(CGROUP);
  return result;
}

/** What is cached already is charged to nobody; without this the limit would not bind. */
function dropCache(): void {
  writeFileSync('/proc/sys/vm/drop_caches', '1');
}
