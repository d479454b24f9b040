// The batch scripts in Slurm: tasks on two hosts, or a rank on each, make shares that become one run's file.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hasSlurm, SlurmHosts } from '../../bench/cluster/slurm-hosts.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { freePort, hasRedis, startRedis } from '../helpers/redis-server.js';
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
  });
  afterAll(() => hosts.close());

  it.each([
    ['array.sbatch', ['--array=0-3', '--gpus=0']],
    ['hosts.sbatch', ['--nodes=2']],
  ] as const)('%s', async (script, words) => {
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
    expect(readFileSync(merged, 'utf8').trimEnd().split('\n')).toEqual(inOrder(whole));
  });

  it.skipIf(!hasRedis())('workers.sbatch', async () => {
    const port = await freePort();
    const server = startRedis(port, newFolder());
    try {
      const queue = ['--queue', `redis://127.0.0.1:${port}`];
      const texts = ['--name', MODEL, '--prompts_file', prompts, '--max_new_tokens', '6'];
      const drawn = ['--temperature', '0.9', '--seed', '5'];
      const [output, whole] = [join(folder, 'collected'), join(folder, 'workers.whole')];
      const submitted = await runCli(['submit', ...queue, ...texts, ...drawn]);
      expect(submitted.errors).toEqual([]);
      const collecting = runCli(['collect', ...queue, '--output', output]);
      await hosts.batch(
        join(ROOT, 'configs/cluster/workers.sbatch'),
        ['--array=0-3', '--nodes=1', '--gpus=0'],
        {
          MODEL,
          ZI: `${process.execPath} ${join(ROOT, 'dist/src/main.js')}`,
          ZI_QUEUE: queue[1],
          OPTIONS: '--batch_size 2',
        },
      );
      const ends = [await collecting, await runCli([...texts, ...drawn, '--output', whole])];
      expect(ends.map(({ status, errors }) => [status, errors])).toEqual([
        [0, []],
        [0, []],
      ]);
      expect(inOrder(output)).toEqual(inOrder(whole));
      expect(inOrder(output)).toHaveLength(30);
    } finally {
      server.kill('SIGKILL');
    }
  });
});

/** Lines of results in the order of their prompts. */
function inOrder(path: string): string[] {
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
  return lines.sort((a, b) => JSON.parse(a).index - JSON.parse(b).index);
}
