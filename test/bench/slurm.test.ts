// The batch scripts in Slurm: tasks on two hosts, or a rank on each, make shares that become one run's file.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hasSlurm, SlurmHosts } from '../../bench/cluster/slurm-hosts.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();
const ROOT = join(import.meta.dirname, '../..');
const MODEL = modelFolder('bloom');

describe.skipIf(!hasSlurm())('with Slurm, and the rights of its daemons', () => {
  let hosts: SlurmHosts;
  const [folder, prompts] = [newFolder(), join(newFolder(), 'in.jsonl')];
  beforeAll(async () => {
    const lines = Array.from({ length: 30 }, (_, i) => ({
      prompt_token_ids: [i + 1, (i * 7) % 384],
      id: `p${i}`,
    }));
    writeFileSync(prompts, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    hosts = await SlurmHosts.start(2, join(folder, 'slurm'));
  }, 90_000);
  afterAll(() => hosts.close());

  it.each([
    ['array.sbatch', ['--array=0-3', '--gpus=0']],
    ['hosts.sbatch', ['--nodes=2']],
  ] as const)(
    '%s',
    async (script, words) => {
      const shares = join(folder, script);
      const options = ['--max_new_tokens', '6', '--temperature', '0.9', '--seed', '5', '--batch_size', '8'];
      await hosts.batch(join(ROOT, 'configs/cluster', script), words, {
        MODEL,
        PROMPTS: prompts,
        SHARES: shares,
        ZI: `${process.execPath} ${join(ROOT, 'dist/src/main.js')}`,
        OPTIONS: options.join(' '),
      });
      const [merged, whole] = [join(folder, `${script}.merged`), join(folder, `${script}.whole`)];
      const ends = [
        await runCli(['merge', shares, '--output', merged]),
        await runCli(['--name', MODEL, '--prompts_file', prompts, ...options, '--output', whole]),
      ];
      expect(ends.map(({ status, errors }) => [status, errors])).toEqual([
        [0, []],
        [0, []],
      ]);
      const inOrder = readFileSync(whole, 'utf8')
        .trimEnd()
        .split('\n')
        .sort((a, b) => JSON.parse(a).index - JSON.parse(b).index);
      expect(readFileSync(merged, 'utf8').trimEnd().split('\n')).toEqual(inOrder);
    },
    240_000,
  );
});
