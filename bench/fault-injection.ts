// Does everything that the system may refuse end in one sentence, or in the same result? Every request of a run fails once.
//
//   node dist/bench/fault-injection.js [--only TEXT] [--kind TEXT] [--most 24] [--processes 2]
//
// Each scenario of bench/faults/scenarios.ts runs once and counts: what the native core asks of the system
// (native/core/faults.h) and what the program asks of files. Then it runs once for each of these, which fails; of kinds
// that a run passes more than `most` times, `most` that are spread evenly; none where that is 0, which only counts.

import { parseArgs } from 'node:util';
import { faultsOf, run } from './faults/run.js';
import { SCENARIOS, type Scenario } from './faults/scenarios.js';

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    kind: { type: 'string', default: '' },
    most: { type: 'string', default: '24' },
    processes: { type: 'string', default: '2' },
  },
});

interface Tally {
  points: number;
  runs: number;
  refused: number;
  recovered: number;
  wrong: number;
}
const tallies = new Map<string, Tally>();

/** `most` of the numbers from 1 to `count`, the first and the last among them. */
function spread(count: number, most: number): number[] {
  if (most === 0) return [];
  if (most === 1) return [1];
  if (count <= most) return Array.from({ length: count }, (_, index) => index + 1);
  const chosen = Array.from(
    { length: most },
    (_, index) => 1 + Math.round((index * (count - 1)) / (most - 1)),
  );
  return [...new Set(chosen)];
}

async function tryAll(scenario: Scenario): Promise<void> {
  const reference = await run(scenario, undefined);
  if (reference.status !== 0) throw new Error(`${scenario.name} fails by itself: ${reference.stderr}`);
  const kinds = Object.entries(reference.counts).filter(
    ([kind, count]) => count > 0 && kind.includes(values.kind),
  );
  const faults = kinds.flatMap(([kind, count]) => {
    const tally = tallyOf(kind);
    tally.points += count;
    return spread(count, Number(values.most)).map((nth) => `${kind}:${nth}`);
  });
  process.stderr.write(`${scenario.name}: ${faults.length} runs\n`);
  const worker = async () => {
    for (let fault = faults.shift(); fault !== undefined; fault = faults.shift()) {
      const ended = await run(scenario, fault);
      const wrong = faultsOf(ended, reference, scenario);
      const tally = tallyOf(fault.slice(0, fault.lastIndexOf(':')));
      tally.runs++;
      if (wrong.length > 0) tally.wrong++;
      else if (ended.status === 0) tally.recovered++;
      else tally.refused++;
      for (const sentence of wrong) process.stdout.write(`${scenario.name}, ${fault}: ${sentence}\n`);
    }
  };
  await Promise.all(Array.from({ length: Number(values.processes) }, worker));
}

function tallyOf(kind: string): Tally {
  const tally = tallies.get(kind) ?? { points: 0, runs: 0, refused: 0, recovered: 0, wrong: 0 };
  tallies.set(kind, tally);
  return tally;
}

for (const scenario of SCENARIOS) {
  if (scenario.name.includes(values.only)) await tryAll(scenario);
}
const sum: Tally = { points: 0, runs: 0, refused: 0, recovered: 0, wrong: 0 };
for (const [kind, tally] of [...tallies].sort()) {
  for (const key of ['points', 'runs', 'refused', 'recovered', 'wrong'] as const) sum[key] += tally[key];
  process.stderr.write(line(kind, tally));
}
process.stderr.write(line('all', sum));
process.exitCode = sum.wrong === 0 ? 0 : 1;

function line(kind: string, { points, runs, refused, recovered, wrong }: Tally): string {
  return `${kind.padEnd(24)} ${points} points, ${runs} runs: ${refused} ended with a sentence, ${recovered} with the same result, ${wrong} otherwise\n`;
}
