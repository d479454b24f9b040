// --generation_config: the model's own settings, below those of the command line; without it, none of them.

import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

function modelWith(config: object): string {
  const folder = join(newFolder(), 'model');
  cpSync(modelFolder('shakespeare-bloom'), folder, { recursive: true });
  writeFileSync(join(folder, 'generation_config.json'), JSON.stringify(config));
  return folder;
}

const run = (folder: string, ...words: string[]) => runCli(['generate', folder, '-p', 'ROMEO:', ...words]);
const DRAWS = { do_sample: true, temperature: 1.3, top_k: 20, top_p: 0.95, eos_token_id: 2 };

describe.concurrent('the model’s own settings', () => {
  it('give the text that the same options give, and options win over them', async () => {
    const folder = modelWith({ ...DRAWS, max_new_tokens: 9, num_beams: 1 });
    const options = ['--temperature', '1.3', '--top_k', '20', '--top_p', '0.95', '--seed', '4', '-n9'];
    const [own, same, plain, greedy, longer] = await Promise.all([
      run(folder, '--generation_config', '--seed', '4'),
      run(folder, ...options),
      run(folder, '-n9'),
      run(folder, '--generation-config', '--temperature', '0'),
      run(folder, '--generation_config', '--seed', '4', '-n', '12', '--top_k', '3'),
    ]);
    expect(own.errors).toEqual([]);
    expect(own.stdout).toBe(same.stdout);
    expect(own.stdout).not.toBe(plain.stdout);
    expect(greedy.stdout).toBe(plain.stdout);
    const told = await run(folder, ...options.slice(0, 2), '--top_k', '3', ...options.slice(4, 8), '-n12');
    expect(longer.stdout).toBe(told.stdout);
    expect(own.logs.join()).toContain('temperature 1.3, top_k 20, top_p 0.95, min_p 0, repetition_penalty 1');
  });

  it('end texts at its stop strings, unless --stop says others', async () => {
    const plain = await run(modelWith({}), '-n', '20');
    const stop = plain.stdout.slice(8, 12);
    const own = await run(modelWith({ stop_strings: [stop] }), '--generation_config', '-n20');
    expect(own.stdout).toBe(`${plain.stdout.slice(0, plain.stdout.indexOf(stop))}\n`);
    const other = await run(
      modelWith({ stop_strings: [stop] }),
      '--generation_config',
      '-n20',
      '--stop',
      '~',
    );
    expect(other.stdout).toBe(plain.stdout);
  });

  it('warn of what is not applied, and refuse what cannot be meant, by name', async () => {
    const beams = await run(modelWith({ num_beams: 4 }), '--generation_config', '-n2');
    expect(beams.logs.join()).toContain('num_beams is 4, which is not applied');
    expect((await run(modelWith({ num_beams: 4 }), '-n2')).logs.join()).not.toContain('num_beams');
    const wrong = await run(modelWith({ temperature: 'hot' }), '--generation_config', '-n2');
    expect(wrong.status).toBe(4);
    expect(wrong.errors).toEqual([
      expect.stringMatching(/BAD_CONFIG: .*temperature is "hot": write a number/),
    ]);
  });

  it('an option of drawing where nothing draws is refused, and nothing is said where there is nothing', async () => {
    const idle = await run(modelWith({ do_sample: false }), '--generation_config', '--top_p', '0.5');
    expect(idle.errors).toEqual([expect.stringMatching(/BAD_OPTION: --top_p is for drawing tokens/)]);
    const none = await run(modelWith({}), '--generation_config', '-n2');
    expect(none.errors).toEqual([]);
    expect(none.logs.join()).toContain('says nothing: tokens are chosen as the options say');
  });
});
