// Weights striped over several drives at the command line: the same texts, and what each drive did.

import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { tempFolder } from '../helpers/temp-folder.js';

const OTHER = '/dev/shm';
const hasOther = existsSync(OTHER) && statSync(OTHER).dev !== statSync(tempFolder()).dev;

describe.skipIf(!hasOther)('two drives (needs /dev/shm)', () => {
  const prompts = join(tempFolder(), 'prompts.jsonl');
  writeFileSync(prompts, '{"prompt_token_ids":[1,5,9,14,3]}\n{"prompt_token_ids":[2,7]}\n');

  // Layers in rows and whole; experts that are read one by one as they are chosen.
  it.each([
    ['shakespeare-bloom', []],
    ['qwen3_moe', ['--expert_slots', '6']],
  ])('%s %j: the same texts as from one drive, and what each delivered', async (name, more) => {
    const [model, copies] = [modelFolder(name), tempFolder(OTHER)];
    const [one, two] = ['one', 'two'].map((file) => join(tempFolder(), `${file}.jsonl`));
    const words = [
      '--name',
      model,
      '--prompts_file',
      prompts,
      '--max_new_tokens',
      '6',
      '--device',
      'cpu',
      ...more,
    ];
    const env = { XDG_CACHE_HOME: tempFolder() };
    // So uneven that both have some of every layer of a small model.
    const drives = ['--nvme_offload_path', `${model}:10MB/s`, '--nvme_offload_path', `${copies}:1GB/s`];
    const report = join(tempFolder(), 'report.json');
    const plain = await runCli([...words, '--nvme_offload_path', model, '--output', one ?? '']);
    expect([plain.errors, plain.status]).toEqual([[], 0]);
    const striped = await runCli([...words, ...drives, '--output', two ?? '', '--report', report], { env });
    expect([striped.errors, striped.status]).toEqual([[], 0]);
    expect(readFileSync(two ?? '', 'utf8')).toBe(readFileSync(one ?? '', 'utf8'));
    expect(striped.logs.join('\n')).toMatch(/striping .* once: read in place of .* to /);
    const figures = JSON.parse(readFileSync(report, 'utf8')).drives;
    expect(figures.map(({ folder }: { folder: string }) => folder)).toEqual([model, copies]);
    for (const { bytes } of figures) expect(bytes).toBeGreaterThan(0);
    const again = await runCli([...words, ...drives, '--output', two ?? '', '--overwrite'], { env });
    expect(readFileSync(two ?? '', 'utf8')).toBe(readFileSync(one ?? '', 'utf8'));
    expect(again.logs.join('\n')).not.toContain('striping');
  });

  it('plan says what each yields, and both together', async () => {
    const drives = [`${tempFolder()}:2GB/s`, `${tempFolder(OTHER)}:1GB/s`].flatMap((drive) => [
      '--nvme_offload_path',
      drive,
    ]);
    const model = modelFolder('shakespeare-bloom');
    const plan = await runCli(['plan', '--name', model, '--device', 'cpu', ...drives]);
    expect(plan.stdout).toMatch(/drives 2\.00 GB\/s \+ 1\.00 GB\/s, together (3\.00|2\.99) GB\/s/);
  });

  it('what is no rate, and an empty folder, are refused', async () => {
    for (const [path, message] of [
      ['/mnt/a:2.5furlongs/s', /the rate of --nvme_offload_path \/mnt\/a is '2.5furlongs'/],
      ['', /--nvme_offload_path is empty/],
    ] as const) {
      const model = modelFolder('shakespeare-bloom');
      const result = await runCli(['--name', model, '--nvme_offload_path', path]);
      expect([...result.errors, ...result.logs].join('\n')).toMatch(message);
      expect(result.status).toBe(2);
    }
  });
});
