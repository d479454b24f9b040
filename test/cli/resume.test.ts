// Killed, torn and resumed: every text is made once, and results of another run are never added to.

import { appendFileSync, existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

const MODEL = modelFolder('bloom');
const BRIEF = ['--name', MODEL, '--max_new_tokens', '12'];

interface Record {
  readonly index: number;
  readonly sample?: number;
  readonly token_ids: readonly number[];
  readonly error?: { readonly code: string; readonly message: string };
  readonly finish_reason: string;
}

/** Prompts of uneven length; some cannot be continued. */
function promptsFile(count: number, bad: readonly number[] = []): { folder: string; input: string } {
  const folder = newFolder();
  const input = join(folder, 'in.jsonl');
  const lines = Array.from({ length: count }, (_, index) => {
    if (bad.includes(index)) return { prompt_token_ids: [index, 999_999] };
    return {
      prompt_token_ids: Array.from({ length: 1 + ((index * 7) % 31) }, (_, i) => (index * 13 + i) % 384),
    };
  });
  writeFileSync(input, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  return { folder, input };
}

function recordsOf(path: string): Record[] {
  const content = readFileSync(path, 'utf8');
  expect(content.endsWith('\n')).toBe(true);
  return content
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record);
}

function wholeLines(path: string): number {
  return existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0;
}

const inOrder = (records: readonly Record[]) =>
  [...records].sort((a, b) => a.index - b.index || (a.sample ?? 0) - (b.sample ?? 0));

describe.concurrent('--resume', () => {
  it('after kills in the middle, with other devices and batches: every text once, and the same', async () => {
    const { folder, input } = promptsFile(600, [3, 250]);
    const [whole, pieces] = [join(folder, 'whole.jsonl'), join(folder, 'pieces.jsonl')];
    const words = [...BRIEF, '--prompts_file', input];
    const atOnce = await runCli([...words, '--output', whole, '--batch_size', '32']);
    expect(atOnce.errors).toEqual([]);
    const settings = [
      ['--batch_size', '3', '--virtual_devices', '2'],
      ['--batch_size', '8'],
      ['--batch_size', '1', '--nvme_offload_path', MODEL],
    ];
    let kills = 0;
    for (const setting of settings) {
      const before = wholeLines(pieces);
      const killed = await runCli([...words, '--output', pieces, '--resume', ...setting], {
        // Some texts later.
        onStdout: (child, text) => {
          if (text.split('\nout=').length > 20) child.kill('SIGKILL');
        },
      });
      if (killed.signal !== 'SIGKILL') break; // it was done before it could be killed
      expect(wholeLines(pieces)).toBeGreaterThan(before);
      // As if the last line had been on its way.
      if (++kills < 3) truncateSync(pieces, readFileSync(pieces).length - 9);
    }
    expect(kills).toBeGreaterThan(0);
    const last = await runCli([...words, '--output', pieces, '--resume', '--batch_size', '16']);
    expect(last.errors).toEqual([]);
    expect(last.status).toBe(0);
    expect(inOrder(recordsOf(pieces))).toEqual(inOrder(recordsOf(whole)));
    expect(recordsOf(pieces)).toHaveLength(600);
    // And once more, when nothing is left.
    const content = readFileSync(pieces);
    const idle = await runCli([...words, '--output', pieces, '--resume']);
    expect(idle.status).toBe(0);
    expect(idle.logs.join()).toMatch(/has 600 of 600 texts; 0 are to be made/);
    expect(readFileSync(pieces).equals(content)).toBe(true);
  });

  it('recognises a line that was cut off, with or without its end, and makes it again', async () => {
    const { folder, input } = promptsFile(6);
    const output = join(folder, 'out.jsonl');
    const words = [...BRIEF, '--prompts_file', input, '--output', output];
    await runCli(words);
    const expected = readFileSync(output, 'utf8');
    const lines = expected.trimEnd().split('\n');
    const firstFour = `${lines.slice(0, 4).join('\n')}\n`;
    for (const torn of ['{"index":4,"prom', lines[4] ?? '']) {
      writeFileSync(output, firstFour + torn);
      const result = await runCli([...words, '--resume']);
      expect(result.errors).toEqual([]);
      expect(result.logs.join()).toMatch(/has 4 of 6 texts.*; 2 are to be made/);
      if (torn !== '')
        expect(result.logs.join()).toContain(`a line that was cut off after ${torn.length} bytes`);
      expect(readFileSync(output, 'utf8')).toBe(expected);
    }
  });

  it('begins where there is nothing yet; without it, results are begun anew only where that is asked for', async () => {
    const { folder, input } = promptsFile(5);
    const output = join(folder, 'out.jsonl');
    const words = [...BRIEF, '--prompts_file', input, '--output', output];
    expect((await runCli([...words, '--resume'])).status).toBe(0);
    const expected = readFileSync(output, 'utf8');
    expect((await runCli([...words, '--max_new_tokens', '12'])).status).toBe(2); // given twice
    expect(readFileSync(output, 'utf8')).toBe(expected);
    const forgotten = await runCli(words);
    expect(forgotten.status).toBe(2);
    expect(forgotten.errors.join()).toMatch(
      /BAD_OPTION: --output: .* of results: add --resume .* --overwrite/,
    );
    expect(readFileSync(output, 'utf8')).toBe(expected);
    const shorter = [...words.map((word) => (word === '12' ? '3' : word)), '--overwrite'];
    expect((await runCli(shorter)).status).toBe(0);
    expect(recordsOf(output).map(({ token_ids }) => token_ids.length)).toEqual([3, 3, 3, 3, 3]);
    const both = await runCli([...words, '--overwrite', '--resume']);
    expect(both.errors.join()).toMatch(/--resume and --overwrite are both given/);
  });

  it('makes damaged lines and prompts that were added again, and nothing else', async () => {
    const { folder, input } = promptsFile(6);
    const [output, whole] = [join(folder, 'out.jsonl'), join(folder, 'whole.jsonl')];
    await runCli([...BRIEF, '--prompts_file', input, '--output', output]);
    const lines = readFileSync(output, 'utf8').trimEnd().split('\n');
    const damaged = `${lines[2]?.slice(0, 30)}\0\0${lines[2]?.slice(40)}`;
    writeFileSync(output, `${[...lines.slice(0, 2), damaged, ...lines.slice(3), lines[0]].join('\n')}\n`);
    writeFileSync(input, readFileSync(promptsFile(9).input));
    const words = [...BRIEF, '--prompts_file', input];
    const resumed = await runCli([...words, '--output', output, '--resume']);
    expect(resumed.errors).toEqual([]);
    expect(resumed.logs.join()).toMatch(/has 5 of 9 texts; 4 are to be made,2 lines of .* are damaged/);
    await runCli([...words, '--output', whole]);
    expect(inOrder(recordsOf(output))).toEqual(inOrder(recordsOf(whole)));
    expect(readFileSync(`${output}.damaged`, 'utf8')).toBe(`${damaged}\n${lines[0]}\n`);
    const idle = await runCli([...words, '--output', output, '--resume']);
    expect(idle.logs.join()).toMatch(/has 9 of 9 texts; 0 are to be made/);
  });

  it('goes on with the seed that was drawn, sample by sample', async () => {
    const { folder, input } = promptsFile(6);
    const [output, again] = [join(folder, 'out.jsonl'), join(folder, 'again.jsonl')];
    const drawn = [...BRIEF, '--temperature', '1.3', '--num_samples', '3', '--prompts_file', input];
    await runCli([...drawn, '--output', output]);
    const expected = inOrder(recordsOf(output));
    expect(expected).toHaveLength(18);
    writeFileSync(output, `${readFileSync(output, 'utf8').split('\n').slice(0, 7).join('\n')}\n`);
    const resumed = await runCli([...drawn, '--output', output, '--resume', '--batch_size', '5']);
    expect(resumed.errors).toEqual([]);
    expect(inOrder(recordsOf(output))).toEqual(expected);
    const { seed } = JSON.parse(readFileSync(`${output}.run.json`, 'utf8'));
    expect(resumed.logs).toContain(`tokens are drawn with --seed ${seed}`);
    // Another seed is another run.
    const other = await runCli([...drawn, '--seed', '1', '--output', output, '--resume']);
    expect(other.status).toBe(2);
    expect(other.errors[0]).toMatch(/belong to a run with other seed \(\d+ there, 1 now\)/);
    await runCli([...drawn, '--seed', String(seed), '--output', again]);
    expect(inOrder(recordsOf(again))).toEqual(expected);
  });

  it('refuses results that it cannot go on with, and leaves them as they are', async () => {
    const { folder, input } = promptsFile(4);
    const output = join(folder, 'out.jsonl');
    const words = [...BRIEF, '--prompts_file', input, '--output', output];
    await runCli(words);
    const content = readFileSync(output);
    const others = [...BRIEF, '--prompts_file', promptsFile(3).input, '--output', output];
    const cases: [readonly string[], RegExp][] = [
      [others, /a run with other prompts \(4 there, 3 now\)/],
      [['--name', modelFolder('llama'), ...words.slice(2)], /other model \("bloom" there, "llama" now\)/],
      [[...words, '--temperature', '1'], /other temperature \(0 there, 1 now\)/],
      [[...words, '--kv_dtype', 'int8'], /other kv_dtype \(null there, "int8" now\)/],
    ];
    for (const [args, message] of cases) {
      const result = await runCli([...args, '--resume']);
      expect(result.errors).toHaveLength(1);
      expect(result.errors[0]).toMatch(/^zero-inference: BAD_INPUT: --resume: the results in /);
      expect(result.errors[0]).toMatch(message);
      expect(result.status).toBe(2);
      expect(readFileSync(output).equals(content)).toBe(true);
    }
  });

  it('results that go to a device are no file to go on with', async () => {
    const { input } = promptsFile(2);
    const words = [...BRIEF, '--prompts_file', input, '--output', '/dev/null'];
    expect((await runCli(words)).status).toBe(0);
    expect(existsSync('/dev/null.run.json')).toBe(false);
    const result = await runCli([...words, '--resume']);
    expect(result.errors[0]).toMatch(/\/dev\/null is no regular file/);
  });
});

describe.concurrent('prompts of a file that cannot be continued', () => {
  it('have their error in their line and below their prompt, and stop no other', async () => {
    const { folder, input } = promptsFile(5);
    const output = join(folder, 'out.jsonl');
    appendFileSync(
      input,
      `${JSON.stringify({ prompt: 'word '.repeat(300) })}\n{"prompt_token_ids":[5,384]}\n`,
    );
    const gpt2 = ['--name', modelFolder('gpt2'), '--max_new_tokens', '12'];
    const result = await runCli([...gpt2, '--prompts_file', input, '--output', output, '--batch_size', '2']);
    expect(result.errors).toEqual([]);
    expect(result.status).toBe(0);
    expect(result.logs.join('\n')).toMatch(/2 of 7 texts cannot be made.*prompt 5 has \d+ tokens/);
    const records = inOrder(recordsOf(output));
    expect(records.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(records[5]).toMatchObject({
      text: null,
      token_ids: [],
      finish_reason: 'error',
      new_tokens: 0,
      error: { code: 'PROMPT_TOO_LONG', message: expect.stringMatching(/prompt 5 has .*context is 256/) },
    });
    for (const index of [0, 1, 2, 3, 4]) expect(records[index]?.token_ids).toHaveLength(12);
    expect(result.stdout).toMatch(/\nin=(word ){300}\nerror=PROMPT_TOO_LONG: prompt 5 has/);
  });

  it('each sample of such a prompt has its line', async () => {
    const { folder, input } = promptsFile(3, [1]);
    const output = join(folder, 'out.jsonl');
    const drawn = ['--temperature', '1', '--seed', '4', '--num_samples', '2'];
    const result = await runCli([...BRIEF, ...drawn, '--prompts_file', input, '--output', output]);
    expect(result.status).toBe(0);
    const records = inOrder(recordsOf(output));
    expect(records.map(({ index, sample }) => `${index}.${sample}`)).toEqual(
      '0.0 0.1 1.0 1.1 2.0 2.1'.split(' '),
    );
    expect(
      records
        .map(({ error }) => error?.code ?? '')
        .join(' ')
        .trim(),
    ).toBe('BAD_INPUT BAD_INPUT');
  });

  it('all of them: the lines are there, and it is an error', async () => {
    const { folder, input } = promptsFile(2, [0, 1]);
    const output = join(folder, 'out.jsonl');
    const result = await runCli([...BRIEF, '--prompts_file', input, '--output', output]);
    expect(result.status).toBe(2);
    expect(result.errors[0]).toMatch(/BAD_INPUT: prompt 0 has token id 999999/);
    expect(recordsOf(output).map(({ finish_reason }) => finish_reason)).toEqual(['error', 'error']);
  });
});
