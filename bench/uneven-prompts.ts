// Does the batch stay full over thousands of uneven prompts, and does every prompt survive kill -9 exactly once?
//
// node dist/bench/uneven-prompts.js [--prompts 5000] [--kills 100] [--batch_size 32] [--devices 3] [--seed 1] [--name FOLDER]

import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Engine } from '../src/engine/engine.js';
import { generate } from '../src/engine/generate.js';
import { openModel } from '../src/engine/open-model.js';
import { printResult } from './common.js';
import { randomFrom } from './random.js';

const { values } = parseArgs({
  options: {
    prompts: { type: 'string', default: '5000' },
    kills: { type: 'string', default: '100' },
    batch_size: { type: 'string', default: '32' },
    devices: { type: 'string', default: '3' },
    seed: { type: 'string', default: '1' },
    name: { type: 'string', default: 'test/fixtures/models/bloom' },
  },
});
const promptCount = Number(values.prompts);
const batchSize = Number(values.batch_size);
const LONGEST_PROMPT = 60;
const NEW_TOKENS = 24;

const random = randomFrom(Number(values.seed));
const below = (limit: number) => Math.floor(random() * limit);

/** Sequences with work in a pass, of those that could have some, until no prompt waits any more. */
async function measureOccupancy(devices: number): Promise<void> {
  const opened = await openModel(values.name);
  const requests = Array.from({ length: promptCount }, (_, index) => ({
    index,
    promptTokens: Int32Array.from({ length: 1 + below(LONGEST_PROMPT) }, () => below(opened.model.vocabSize)),
  }));
  const lengths = requests.map(() => 1 + below(NEW_TOKENS));
  const engine = await Engine.open(opened, {
    offload: 'dram',
    cpu: { virtualDevices: devices },
    workload: {
      sequences: batchSize,
      contextTokens: LONGEST_PROMPT + NEW_TOKENS,
      promptTokens: (batchSize * LONGEST_PROMPT) / 2,
      output: 'tokens',
    },
  });
  const finished = new Set<number>();
  let [passes, work, places, tail] = [0, 0, 0, 0];
  await generate(engine.executor, requests, {
    batchSize,
    maxNewTokens: NEW_TOKENS,
    stopTokens: new Set(),
    stopsAfter: ({ index }) => {
      let made = 0;
      return () => ++made === lengths[index];
    },
    onFinished: ({ index }) => finished.add(index),
    onPass: ({ sequences, capacity, waitingPrompts }) => {
      passes++;
      if (waitingPrompts === 0) tail++;
      else [work, places] = [work + sequences, places + capacity];
    },
  });
  await engine.close();
  // What groups that wait for their longest text would take, one decode pass per token.
  let grouped = 0;
  for (let first = 0; first < promptCount; first += batchSize * devices) {
    grouped += Math.max(...lengths.slice(first, first + batchSize * devices));
  }
  const occupancy = work / places;
  printResult(
    'occupancy',
    `${finished.size} of ${promptCount} prompts, ${devices} devices, ${batchSize} at once on each: ` +
      `${(occupancy * 100).toFixed(2)} % of the places had work until the last prompt had begun; ` +
      `${passes} passes (${tail} of them after that), groups would take at least ${grouped}`,
    { devices, batchSize, prompts: promptCount, occupancy, passes, tail, grouped },
  );
}

/** One run of the command line; killed when `killAfter` says so: at once after its start, or after its first text. */
function runOnce(
  args: readonly string[],
  killAfter: { readonly startMs?: number; readonly textMs?: number } = {},
): Promise<{ killed: boolean; ms: number }> {
  const started = performance.now();
  const child = spawn(process.execPath, ['dist/src/main.js', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let errors = '';
  child.stderr.on('data', (text: Buffer) => {
    errors += text.toString();
  });
  const kill = () => child.kill('SIGKILL');
  if (killAfter.startMs !== undefined) setTimeout(kill, killAfter.startMs);
  child.stdout.once('data', () => {
    if (killAfter.textMs !== undefined) setTimeout(kill, killAfter.textMs);
  });
  child.stdout.resume();
  return new Promise((resolve, reject) => {
    child.on('close', (status, signal) => {
      const ms = performance.now() - started;
      if (status === 0 || signal === 'SIGKILL') resolve({ killed: signal === 'SIGKILL', ms });
      else reject(new Error(`status ${status}: ${errors}`));
    });
  });
}

/** Lines by index, and how many came after one of the same index; throws for a line that is none. */
function linesByIndex(path: string): { lines: Map<number, string>; twice: number } {
  const content = readFileSync(path, 'utf8');
  if (!content.endsWith('\n')) throw new Error(`${path} ends in the middle of a line`);
  const lines = new Map<number, string>();
  let twice = 0;
  for (const line of content.trimEnd().split('\n')) {
    const { index } = JSON.parse(line) as { index: number };
    if (lines.has(index)) twice++;
    lines.set(index, line);
  }
  return { lines, twice };
}

function sizeOf(path: string): number {
  return existsSync(path) ? statSync(path).size : 0;
}

async function killAndResume(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'zero-inference-streams-'));
  const [input, whole, pieces] = ['in.jsonl', 'whole.jsonl', 'pieces.jsonl'].map((name) =>
    join(folder, name),
  );
  if (!input || !whole || !pieces) return;
  const words = ['stone', 'river', 'lamp', 'of', 'and', 'quietly', 'seven', 'x'];
  const prompts = Array.from({ length: promptCount }, (_, index) => {
    return `${index} ${Array.from({ length: below(10) }, () => words[below(words.length)]).join(' ')}`;
  });
  writeFileSync(input, prompts.map((prompt) => `${JSON.stringify({ prompt })}\n`).join(''));
  const options = [
    '--temperature',
    '1.2',
    '--seed',
    '5',
    '--stop',
    'e',
    '--max_new_tokens',
    String(NEW_TOKENS),
  ];
  const args = ['--name', values.name, ...options, '--prompts_file', input];
  const { ms } = await runOnce([...args, '--output', whole, '--batch_size', values.batch_size]);
  const expected = linesByIndex(whole).lines;
  const counts = { kills: 0, beforeText: 0, torn: 0, tornByHand: 0, completions: 0, checkedTexts: 0 };
  let [wrong, missing, twice] = [0, 0, 0];
  while (counts.kills < Number(values.kills) || sizeOf(pieces) > 0) {
    const enough = counts.kills >= Number(values.kills);
    const early = random() < 0.15;
    const killAfter = enough ? {} : early ? { startMs: below(600) } : { textMs: below(Math.ceil(ms / 12)) };
    const devices = random() < 0.5 ? [] : ['--virtual_devices', values.devices];
    const size = ['--batch_size', String(1 + below(2 * batchSize))];
    const { killed } = await runOnce(
      [...args, ...devices, ...size, '--output', pieces, '--resume'],
      killAfter,
    );
    if (killed) {
      counts.kills++;
      if (early) counts.beforeText++;
      const content = existsSync(pieces) ? readFileSync(pieces) : Buffer.alloc(0);
      if (content.length > 0 && content.at(-1) !== 10) counts.torn++;
      else if (content.length > 0 && random() < 0.2) {
        // As a machine that loses power in mid-write leaves it.
        truncateSync(pieces, content.length - 1 - below(Math.min(60, content.length - 1)));
        counts.tornByHand++;
      }
      continue;
    }
    const found = linesByIndex(pieces);
    twice += found.twice;
    for (const [index, line] of expected) {
      if (!found.lines.has(index)) missing++;
      else if (found.lines.get(index) !== line) wrong++;
    }
    counts.completions++;
    counts.checkedTexts += found.lines.size;
    rmSync(pieces);
    process.stderr.write(`${counts.kills} kills, ${counts.completions} runs brought to their end\n`);
  }
  rmSync(folder, { recursive: true });
  printResult(
    'kill -9 and --resume',
    `${counts.kills} kills (${counts.beforeText} aimed at the start), ${counts.torn} lines torn by them and ` +
      `${counts.tornByHand} by hand, ${counts.completions} runs of ${promptCount} prompts brought to their end: ` +
      `${missing} texts lost, ${twice} done twice, ${wrong} other than without kills`,
    { ...counts, prompts: promptCount, missing, twice, wrong },
  );
  if (missing + twice + wrong > 0) process.exitCode = 1;
}

await measureOccupancy(1);
await measureOccupancy(Number(values.devices));
await killAndResume();
