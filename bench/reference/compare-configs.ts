// Checkpoints that a script here made: what the engine makes of each, beside what the reference makes of it.
//
// One may be refused by name; it must not give other logits without a word, nor leave tensors unused without one.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import { forcedLogits } from '../../test/golden/forced.js';

interface Expected {
  readonly refused?: string;
  readonly ids: readonly (readonly number[])[];
  /** How many of each sequence's tokens are its prompt. */
  readonly given: readonly number[];
  /** Per sequence, after its prompt and after each further token. */
  readonly logits: readonly (readonly (readonly number[])[])[];
  /** Tensors that the reference does not use. */
  readonly unexpected?: readonly string[];
  /** What was changed, for people. */
  readonly what?: string;
}

/** As a share of the largest logit of a row. */
const TOLERANCE = 2e-4;

type Outcome = { readonly kind: 'same' | 'other' | 'refused' | 'failed'; readonly detail: string };

async function compare(folder: string, { ids, given, logits }: Expected): Promise<Outcome> {
  const prompts = ids.map((tokens, index) => ({
    prompt: tokens.slice(0, given[index]),
    given: tokens.slice(given[index]),
  }));
  let worst = 0;
  let where = '';
  let allFinite = true;
  try {
    const placement = { offload: 'nvme', dramBudgetBytes: 1 << 30 } as const;
    await forcedLogits(folder, prompts, placement, prompts.length, (prompt, step, row) => {
      const expected = logits[prompt]?.[step] ?? [];
      allFinite &&= row.every(Number.isFinite);
      const difference = relativeDifference(row, expected);
      if (difference > worst || Number.isNaN(difference)) {
        worst = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
        where = `prompt of ${given[prompt]} tokens, step ${step}`;
      }
    });
  } catch (error) {
    if (!(error instanceof OperatingError)) return { kind: 'failed', detail: String(error) };
    return { kind: 'refused', detail: `${error.code} ${error.message.split(': ').slice(1).join(': ')}` };
  }
  // Generation ends with NOT_FINITE there.
  if (!allFinite) return { kind: 'refused', detail: 'NOT_FINITE logits that are not finite' };
  const detail = `${worst.toExponential(1)} at ${where}`;
  return { kind: worst <= TOLERANCE ? 'same' : 'other', detail };
}

/** Largest difference over the largest magnitude. */
function relativeDifference(row: Float32Array, expected: readonly number[]): number {
  if (row.length !== expected.length) return Number.POSITIVE_INFINITY;
  let [difference, magnitude] = [0, 0];
  for (const [id, value] of expected.entries()) {
    difference = Math.max(difference, Math.abs(value - (row[id] ?? Number.NaN)));
    magnitude = Math.max(magnitude, Math.abs(value));
  }
  return difference === 0 ? 0 : difference / magnitude;
}

/** Whether a run gives finite logits; false also where it is refused. */
async function runs(folder: string, { ids, given }: Partial<Expected>): Promise<boolean> {
  const [tokens] = ids ?? [];
  if (!tokens) return true;
  const length = given?.[0] ?? tokens.length;
  const prompts = [{ prompt: tokens.slice(0, length), given: tokens.slice(length) }];
  let allFinite = true;
  try {
    const placement = { offload: 'nvme', dramBudgetBytes: 1 << 30 } as const;
    await forcedLogits(folder, prompts, placement, 1, (_prompt, _step, row) => {
      allFinite &&= row.every(Number.isFinite);
    });
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    return false;
  }
  return allFinite;
}

/** The engine would run it and say nothing. */
async function opensSilently(folder: string): Promise<boolean> {
  if (!existsSync(join(folder, 'config.json'))) return false;
  return openModel(folder).then(
    ({ warnings }) => warnings.length === 0,
    () => false,
  );
}

async function main(root: string): Promise<void> {
  let wrong = 0;
  for (const { name: family } of readdirSync(root, { withFileTypes: true }).filter((entry) =>
    entry.isDirectory(),
  )) {
    const counts = {
      same: 0,
      other: 0,
      refused: 0,
      failed: 0,
      'refused by the reference': 0,
    };
    const reasons = new Map<string, number>();
    for (const number of readdirSync(join(root, family)).sort()) {
      const folder = join(root, family, number);
      const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8')) as Expected;
      if (expected.refused !== undefined) {
        counts['refused by the reference']++;
        if ((await opensSilently(folder)) && (await runs(folder, expected)))
          console.log(`TAKEN ${folder} (${expected.what}): ${expected.refused}`);
        continue;
      }
      if (expected.unexpected?.length && (await opensSilently(folder))) {
        wrong++;
        console.log(`SILENT ${folder} (${expected.what}): ${expected.unexpected.slice(0, 3).join(', ')}`);
      }
      if (!existsSync(join(folder, 'config.json'))) continue;
      const { kind, detail } = await compare(folder, expected);
      counts[kind]++;
      if (kind === 'refused') reasons.set(detail, (reasons.get(detail) ?? 0) + 1);
      if (kind === 'other' || kind === 'failed') {
        wrong++;
        console.log(`${kind.toUpperCase()} ${folder} (${expected.what}): ${detail}`);
      }
    }
    console.log(`${family}: ${JSON.stringify(counts)}`);
    for (const [reason, count] of [...reasons].sort((a, b) => b[1] - a[1]))
      console.log(`  ${count} × ${reason}`);
  }
  process.exitCode = wrong === 0 ? 0 : 1;
}

const [root] = process.argv.slice(2);
if (root === undefined) {
  console.error(
    'usage: node dist/bench/reference/compare-configs.js FOLDER   (made by one of the scripts here)',
  );
  process.exitCode = 2;
} else await main(root);
