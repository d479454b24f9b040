// A batch without a server would lose requests, answer them otherwise than `generate`, or write over other results.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
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

/** Kills itself in the middle of writing a line, once so many are written. */
function killedAfter(count: number): string {
  const wrapped = `fs.writeSync = (file, bytes, ...rest) => {
    if (!String(bytes).startsWith('{"id":"batch_req_') || lines++ < ${count}) return write(file, bytes, ...rest);
    write(file, bytes, 0, bytes.length >> 1);
    process.kill(process.pid, 'SIGKILL');
  }`;
  const imports = `import fs from 'node:fs'; import { syncBuiltinESMExports } from 'node:module';`;
  const script = `${imports} let lines = 0; const write = fs.writeSync; ${wrapped}; syncBuiltinESMExports();`;
  return `data:text/javascript,${encodeURIComponent(script)}`;
}

async function killed(words: readonly string[], lines: number): Promise<void> {
  const child = spawn(process.execPath, ['--import', killedAfter(lines), MAIN, ...words], {
    stdio: 'ignore',
  });
  const [, signal] = await once(child, 'exit');
  expect(signal).toBe('SIGKILL');
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
  const files = ['--input', input, '--output', output, '--errors', errors];
  const words = ['batch', MODEL, ...files, '--batch_size'];
  await killed([...words, '2'], 5);
  const left = readFileSync(output, 'utf8').split('\n');
  expect([left.length, left.at(-1)]).toEqual([6, expect.stringMatching(/^\{"id".*[^}]$/)]);

  const refused = await runCli([...words, '2']);
  expect([refused.status, refused.errors.join()]).toEqual([
    2,
    expect.stringContaining('add --resume to go on'),
  ]);
  await killed([...words, '2', '--resume'], 4);
  const result = await runCli([...words, '8', '--resume']);
  expect(result.errors).toEqual([]);
  expect(result.logs.join('\n')).toMatch(/9 of 26 requests have a line already/);
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
  const other = await runCli([...words, '8', '--resume']);
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
