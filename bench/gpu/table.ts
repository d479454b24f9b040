// The table of one GPU beside its limits and its peers, as Markdown and JSON, from what the other benches printed.
//
// SHAPE=opt-6.7b bench/gpu/run.sh bench resident drive >results.jsonl && node dist/bench/gpu/table.js results.jsonl
//
// Peers were measured on the same kind of host (one H100 80GB, PCIe 5 ×16, 128 GiB) with the OPT-6.7B shape, random
// fp16, everything in DRAM: FlexGen with page-locked weights and overlap, Accelerate 1.15 with cpu_offload.

import { readFileSync } from 'node:fs';
import { percent } from '../common.js';

type Result = Readonly<Record<string, unknown>> & { readonly question: string };

interface Row {
  readonly what: string;
  readonly measured: string;
  readonly ofLimit: string;
  readonly bar: string;
  readonly met: boolean;
  readonly peers: string;
}

const results = process.argv.slice(2).flatMap(readResults);
const rows = [
  decodeRow('8', '32', 0.97, 'FlexGen 281 ms, Accelerate 1957 ms'),
  decodeRow('32', '512', 0.96, 'FlexGen 274 ms, Accelerate 1897 ms'),
  prefillRow(),
  blockRow(),
  halfRow(),
  residentRow(),
  ratioRow('disk tier → GPU', 'drive to GPU', 'of the ring alone', 0.95, 'at least'),
  ratioRow('start to first token', 'start to first token', 'times file ÷ drive', 1.1, 'at most'),
].flatMap((row) => row ?? []);
const head = ['what', 'measured', 'of the limit', 'bar', 'met', 'peers'];
const lines = rows.map(({ what, measured, ofLimit, bar, met, peers }) => [
  what,
  measured,
  ofLimit,
  bar,
  met ? 'yes' : 'no',
  peers,
]);
process.stderr.write(`${[head, head.map(() => '---'), ...lines].map(markdownRow).join('\n')}\n`);
process.stdout.write(`${JSON.stringify({ question: 'one GPU', rows }, null, 2)}\n`);

/** JSON lines as the benches print them, or a file of bench/results. */
function readResults(path: string): Result[] {
  const text = readFileSync(path, 'utf8');
  const lines = text.split('\n').filter((line) => line.startsWith('{"question"'));
  if (lines.length > 0) return lines.map((line) => JSON.parse(line) as Result);
  return (JSON.parse(text) as { runs: { results: Result[] }[] }).runs.flatMap(({ results }) => results);
}

function markdownRow(cells: readonly string[]): string {
  return `| ${cells.join(' | ')} |`;
}

/** The last result that has these values. */
function find(wanted: Readonly<Record<string, unknown>>): Result | undefined {
  return results.findLast((result) => Object.entries(wanted).every(([key, value]) => result[key] === value));
}

function number(result: Result, key: string): number {
  const value = result[key];
  if (typeof value !== 'number') throw new Error(`${result.question}: ${key} is no number`);
  return value;
}

function streamed(batch: string, prompt: string): Result | undefined {
  return results.findLast(
    (result) =>
      result.question === 'streaming opt-6.7b to a GPU' &&
      result.batch === batch &&
      result.prompt === prompt &&
      (result.residentBytes ?? 0) === 0 &&
      (result.kvBytes ?? 0) === 0,
  );
}

function decodeRow(batch: string, prompt: string, bar: number, peers: string): Row | undefined {
  const result = streamed(batch, prompt);
  if (!result) return undefined;
  const ms = number(result, 'decodeMs');
  const share = number(result, 'streamedBytes') / (ms / 1e3) / number(result, 'linkBytesPerSecond');
  return {
    what: `decode, batch ${batch}, prompt ${prompt}`,
    measured: `${ms.toFixed(0)} ms a step`,
    ofLimit: `${percent(share)} of the link`,
    bar: `≥ ${percent(bar)}`,
    met: share >= bar,
    peers,
  };
}

function prefillRow(): Row | undefined {
  const result = streamed('64', '512');
  if (!result) return undefined;
  const ms = number(result, 'prefillMs');
  return {
    what: 'prefill 64×512',
    measured: `${ms.toFixed(0)} ms`,
    ofLimit: `${(number(result, 'prefillFlops') / ms / 1e9).toFixed(0)} TFLOP/s`,
    bar: '≤ 710 ms',
    met: ms <= 710,
    peers: 'FlexGen 888 ms, Accelerate 2930 ms',
  };
}

function blockRow(): Row | undefined {
  const result = results.findLast(
    ({ question, buffers }) => question === 'prefill of bloom-176b blocks, streamed' && buffers === undefined,
  );
  if (!result) return undefined;
  const [ratio, stall] = [number(result, 'ratio'), number(result, 'stallShare')];
  return {
    what: `${number(result, 'blocks')} blocks of BLOOM-176B streamed, 16,384 tokens`,
    measured: `${number(result, 'passMs').toFixed(0)} ms a pass`,
    ofLimit: `${percent(ratio)} of their products alone, waiting ${percent(stall)}`,
    bar: '≥ 85.0 %, < 3.0 %',
    met: ratio >= 0.85 && stall < 0.03,
    peers: '',
  };
}

function halfRow(): Row | undefined {
  const all = streamed('8', '32');
  const half = results.findLast(
    ({ question, batch, residentBytes, streamedBytes }) =>
      question === 'streaming opt-6.7b to a GPU' &&
      batch === '8' &&
      residentBytes !== 0 &&
      streamedBytes !== 0,
  );
  if (!all || !half || half.residentBytes === undefined) return undefined;
  const share = number(half, 'decodeMs') / number(all, 'decodeMs');
  return {
    what: 'half the layers resident, decode, batch 8',
    measured: `${number(half, 'decodeMs').toFixed(0)} ms a step`,
    ofLimit: `${percent(share)} of the time with all streamed`,
    bar: '≤ 53.0 %',
    met: share <= 0.53,
    peers: '',
  };
}

function residentRow(): Row | undefined {
  const result = find({ question: 'streaming opt-6.7b to a GPU', streamedBytes: 0, batch: '1' });
  if (!result) return undefined;
  const ms = number(result, 'decodeMs');
  const share = number(result, 'residentBytes') / (ms / 1e3) / number(result, 'memoryBytesPerSecond');
  return {
    what: 'all resident, batch 1',
    measured: `${ms.toFixed(2)} ms a step`,
    ofLimit: `${percent(share)} of copies in the device's memory`,
    bar: '≥ 75.0 %',
    met: share >= 0.75,
    peers: '',
  };
}

function ratioRow(
  what: string,
  question: string,
  limit: string,
  bar: number,
  side: 'at least' | 'at most',
): Row | undefined {
  const result = find({ question });
  if (!result) return undefined;
  const ratio = number(result, 'ratio');
  return {
    what,
    measured: ratio.toFixed(3),
    ofLimit: limit,
    bar: `${side === 'at least' ? '≥' : '≤'} ${bar}`,
    met: side === 'at least' ? ratio >= bar : ratio <= bar,
    peers: '',
  };
}
