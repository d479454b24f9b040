// Does an array of eight tasks on two hosts of Slurm make one run's file?
//
// node dist/bench/cluster/slurm.js [--prompts 1000] [--tasks 8]

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { inOrder, writePrompts } from './hosts.js';
import { SlurmHosts } from './slurm-hosts.js';

const { values } = parseArgs({
  options: {
    name: { type: 'string', default: 'test/fixtures/models/stories260K' },
    prompts: { type: 'string', default: '1000' },
    tasks: { type: 'string', default: '8' },
    dir: { type: 'string', default: 'out/bench/slurm' },
  },
});
const MAIN = join(import.meta.dirname, '../../src/main.js');
const folder = join(process.cwd(), values.dir);
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const [prompts, shares] = [join(folder, 'in.jsonl'), join(folder, 'shares')];
const [merged, whole] = [join(folder, 'merged.jsonl'), join(folder, 'whole.jsonl')];
writePrompts(prompts, Number(values.prompts));
const model = join(process.cwd(), values.name);
const options = [
  '--max_new_tokens',
  '8',
  '--temperature',
  '0.9',
  '--seed',
  '11',
  '--batch_size',
  '32',
  '--threads',
  '1',
];
const run = (...words: readonly string[]) => {
  execFileSync(process.execPath, [MAIN, ...words], { stdio: ['ignore', 'ignore', 'pipe'] });
};
const hosts = await SlurmHosts.start(2, join(folder, 'slurm'));
try {
  const script = join(process.cwd(), 'configs/cluster/array.sbatch');
  await hosts.batch(script, [`--array=0-${Number(values.tasks) - 1}`, '--gpus=0'], {
    MODEL: model,
    PROMPTS: prompts,
    SHARES: shares,
    ZI: `${process.execPath} ${MAIN}`,
    OPTIONS: options.join(' '),
  });
} finally {
  hosts.close();
}
run('merge', shares, '--output', merged);
run('generate', '--name', model, '--prompts_file', prompts, ...options, '--output', whole);
const lines = readFileSync(merged, 'utf8').trimEnd().split('\n');
const one = inOrder(whole);
const same = lines.length === one.length && lines.every((line, i) => line === one[i]);
process.stdout.write(
  `${values.tasks} tasks on 2 hosts: ${lines.length} lines, ${same ? 'the same as' : 'OTHER than'} one run's, in order\n`,
);
if (!same) process.exitCode = 1;
