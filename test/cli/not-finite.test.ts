// Values that are no finite numbers, as users meet them: a sentence and a status, and every other text as it is.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { spoilCheckpoint } from '../helpers/spoilt-checkpoint.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

function spoilt(tensor: string, index: number): string {
  const folder = newFolder();
  spoilCheckpoint(folder, 'llama', [{ tensor, index, value: Number.NaN }]);
  return folder;
}

const everywhere = () => spoilt('model.layers.1.mlp.up_proj.weight', 0);
const COMMON = ['--max_new_tokens', '4', '--ignore_eos'];
const SENTENCE =
  /^zero-inference: NOT_FINITE: new token 0 of prompt 0 cannot be told, .* begin in block 1 \(/;

describe.concurrent('a layer that is spoilt', () => {
  it.each([
    ['streamed', ['--prompt', 'ab']],
    ['as a batch', ['--prompt', 'ab', '--prompt', 'cd', '--batch_size', '2']],
    ['drawn', ['--prompt', 'ab', '--temperature', '0.8', '--seed', '1', '--num_samples', '2']],
    ['on two devices', ['--prompt', 'ab', '--prompt', 'cd', '--virtual_devices', '2']],
    ['measured', ['--benchmark', '--batch_size', '2']],
  ])('ends the run: %s', async (_, args) => {
    const { status, errors } = await runCli(['--name', everywhere(), ...COMMON, ...args]);
    expect(errors).toHaveLength(1);
    expect(errors[0]).toMatch(SENTENCE);
    expect(status).toBe(8);
  });

  it('is told by score', async () => {
    const text = join(newFolder(), 'ids.json');
    writeFileSync(text, '[1, 2, 3, 4]');
    const { status, errors, stdout } = await runCli(['score', '--name', everywhere(), '--token_ids', text]);
    expect(errors[0]).toMatch(/NOT_FINITE: the likelihood of token 1 cannot be told.*in block 1/);
    expect([status, stdout]).toEqual([8, '']);
  });
});

describe.concurrent('a file of prompts', () => {
  const line = (ids: readonly number[]) => JSON.stringify({ prompt_token_ids: ids });
  const run = async (name: string, prompts: readonly string[]) => {
    const folder = newFolder();
    const [input, output] = [join(folder, 'in.jsonl'), join(folder, 'out.jsonl')];
    writeFileSync(input, prompts.join('\n'));
    const files = ['--prompts_file', input, '--output', output, '--batch_size', '2'];
    const result = await runCli(['--name', name, ...COMMON, ...files]);
    const lines = readFileSync(output, 'utf8').trimEnd().split('\n');
    const records = lines.map((text) => JSON.parse(text));
    return { ...result, records: records.sort((a, b) => a.index - b.index) };
  };

  it('has an error in the lines of the texts that are reached, and the others', async () => {
    const prompts = [line([3, 4]), line([120, 4]), line([-1]), line([5, 6])];
    const { status, records, stdout, logs } = await run(
      spoilt('model.embed_tokens.weight', 120 * 64),
      prompts,
    );
    const clean = await run(modelFolder('llama'), prompts);
    expect(status).toBe(0);
    expect(records.map(({ error }) => error?.code)).toEqual([
      undefined,
      'NOT_FINITE',
      'BAD_INPUT',
      undefined,
    ]);
    for (const index of [0, 2, 3]) expect(records[index]).toEqual(clean.records[index]);
    expect(records[1]).toMatchObject({ finish_reason: 'error', token_ids: [], new_tokens: 0 });
    expect(stdout).toContain('error=NOT_FINITE: new token 0 of prompt 1');
    expect(logs.join('\n')).toMatch(/1 of 3 texts ended with an error: new token 0 of prompt 1/);
  });

  it('that has no other text fails the run', async () => {
    const { status, records, errors } = await run(everywhere(), [line([3, 4]), line([5])]);
    expect(records.map(({ error }) => error?.code)).toEqual(['NOT_FINITE', 'NOT_FINITE']);
    expect(errors[0]).toMatch(SENTENCE);
    expect(status).toBe(8);
  });
});
