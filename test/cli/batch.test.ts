// A batch without a server would lose requests, answer them otherwise than `generate`, or write over other results.

import { spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { tempFolder } from '../helpers/temp-folder.js';

const MODEL = modelFolder('shakespeare-bloom');
const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));
const COUNT = 24;
const TOKENS = 24;

const prompts = Array.from(
  { length: COUNT },
  (_, index) => `KING RICHARD ${'I'.repeat(1 + (index % 3))}: ${index}`,
);

function jsonLines(path: string): unknown[] {
  return readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

/** Kills the process once the file has something. */
async function killed(words: readonly string[], output: string): Promise<void> {
  const child = spawn(process.execPath, [MAIN, ...words], { stdio: 'ignore' });
  const ended = new Promise<NodeJS.Signals | null>((resolve) =>
    child.on('exit', (_, signal) => resolve(signal)),
  );
  while (child.exitCode === null && !(existsSync(output) && statSync(output).size > 0)) await setTimeout(5);
  child.kill('SIGKILL');
  expect(await ended).toBe('SIGKILL');
}

it('answers every request once, after a kill as well, with the texts of generate; and refuses other results', async () => {
  const folder = tempFolder();
  const [input, output, errors] = ['in', 'out', 'errors'].map((name) => join(folder, `${name}.jsonl`)) as [
    string,
    string,
    string,
  ];
  const requests = prompts.map((prompt, index) => ({
    custom_id: `r${index}`,
    method: 'POST',
    url: '/v1/completions',
    body: { prompt, max_tokens: TOKENS, temperature: 0 },
  }));
  const lines = [...requests, { ...requests[0], custom_id: 'wrong', body: { prompt: 1.5 } }].map((line) =>
    JSON.stringify(line),
  );
  writeFileSync(input, [...lines, '{'].map((line) => `${line}\n`).join(''));
  const words = [
    'batch',
    MODEL,
    '--input',
    input,
    '--output',
    output,
    '--errors',
    errors,
    '--batch_size',
    '2',
  ];
  await killed([...words, '--batch_size', '2'], output);
  const before = readFileSync(output, 'utf8').split('\n').length - 1;
  expect(before).toBeLessThan(COUNT);

  const refused = await runCli(words);
  expect([refused.status, refused.errors.join()]).toEqual([
    2,
    expect.stringContaining('add --resume to go on'),
  ]);
  const result = await runCli([...words, '--resume', '--batch_size', '8']);
  expect(result.errors).toEqual([]);
  expect(result.logs.join('\n')).toMatch(/of 26 requests have a line already/);
  expect(result.logs.at(-1)).toMatch(/^answered \d+ requests: .*, 2 of them with an error/);
  const answered = jsonLines(output) as {
    custom_id: string;
    response: { body: { choices: { text: string }[] } };
  }[];
  const texts = new Map(answered.map((line) => [line.custom_id, line.response.body.choices[0]?.text]));
  expect([answered.length, texts.size]).toEqual([COUNT, COUNT]);
  expect(jsonLines(errors)).toHaveLength(2);

  const [file, made] = [join(folder, 'prompts.jsonl'), join(folder, 'made.jsonl')];
  writeFileSync(file, prompts.map((prompt) => `${JSON.stringify({ prompt })}\n`).join(''));
  const generate = [
    'generate',
    MODEL,
    '--prompts_file',
    file,
    '--output',
    made,
    '--max_new_tokens',
    String(TOKENS),
  ];
  expect((await runCli([...generate, '--batch_size', '8', '--temperature', '0'])).errors).toEqual([]);
  for (const { index, text } of jsonLines(made) as { index: number; text: string }[])
    expect([index, texts.get(`r${index}`)]).toEqual([index, text]);

  writeFileSync(input, `${lines.slice(1).join('\n')}\n`);
  const other = await runCli([...words, '--resume']);
  expect([other.status, other.errors.join()]).toEqual([2, expect.stringContaining('other prompts')]);
});

it('with a custom_id twice is refused before the model is opened', async () => {
  const folder = tempFolder();
  const input = join(folder, 'in.jsonl');
  const line = JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/completions', body: {} });
  writeFileSync(input, `${line}\n${line}\n`);
  const result = await runCli(['batch', MODEL, '--input', input, '--output', join(folder, 'out.jsonl')]);
  expect(result.status).toBe(2);
  expect(result.errors.join()).toContain('has custom_id "a" in line 1 and again in line 2');
});
