// Shares of a run: each prompt is in exactly one, merged they are what one run makes, and whatever is wrong is named.

import { appendFileSync, copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readGenerateOptions } from '../../src/cli/options/generate-options.js';
import { OptionReader } from '../../src/cli/options/option-reader.js';
import { readShare } from '../../src/cli/options/share.js';
import { commonSettings, sharesIn, TextIndex } from '../../src/cli/results/shares.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

function share(text: string, environment: Record<string, string> = {}) {
  return readShare(new OptionReader({ shard: text }), environment);
}

describe('--shard', () => {
  it('is said outright', () => {
    expect(share('0/1')).toEqual({ index: 0, count: 1 });
    expect(share('7/8')).toEqual({ index: 7, count: 8 });
    for (const wrong of ['8/8', '0/0', '1', '-1/8', '1/8/2', 'x/2', '0/9999999']) {
      expect(() => share(wrong), wrong).toThrow(/--shard is '.*give I\/N/);
    }
  });

  const array = (id: number, min: number, max: number, count: number, step = 1) => ({
    SLURM_ARRAY_TASK_ID: String(id),
    SLURM_ARRAY_TASK_MIN: String(min),
    SLURM_ARRAY_TASK_MAX: String(max),
    SLURM_ARRAY_TASK_COUNT: String(count),
    SLURM_ARRAY_TASK_STEP: String(step),
  });

  it('is asked of the scheduler: tasks of an array, ranks of srun, both, and an indexed job', () => {
    expect(share('auto', array(3, 0, 7, 8))).toEqual({ index: 3, count: 8 });
    expect(share('auto', array(14, 10, 18, 5, 2))).toEqual({ index: 2, count: 5 });
    const ranks = { SLURM_PROCID: '1', SLURM_NTASKS: '4', SLURM_STEP_NUM_TASKS: '4' };
    expect(share('auto', ranks)).toEqual({ index: 1, count: 4 });
    expect(share('auto', { ...array(2, 0, 2, 3), ...ranks })).toEqual({ index: 9, count: 12 });
    expect(share('auto/5', { JOB_COMPLETION_INDEX: '4' })).toEqual({ index: 4, count: 5 });
    // Those of an array that are made again.
    expect(share('auto/8', array(6, 3, 6, 2))).toEqual({ index: 6, count: 8 });
  });

  it('goes to a folder that is there', () => {
    const read = (output: string) =>
      readGenerateOptions(
        new OptionReader({ name: 'm', device: 'cpu', shard: '1/3', prompts_file: 'in.jsonl', output }),
      ).output;
    const folder = newFolder();
    expect(read(folder)).toBe(join(folder, 'share-00001-of-00003.jsonl'));
    expect(read(join(folder, 'a.jsonl'))).toBe(join(folder, 'a.jsonl'));
    expect(() => read(`${folder}/later/`)).toThrow(/later\/ is not there: make the folder first/);
  });

  it('is refused where the scheduler does not tell', () => {
    expect(() => share('auto')).toThrow(/neither Slurm .* nor Kubernetes/);
    expect(() => share('auto', { JOB_COMPLETION_INDEX: '0' })).toThrow(/give auto\/N with the completions/);
    expect(() => share('auto/3', { JOB_COMPLETION_INDEX: '3' })).toThrow(/is 3\/3 here/);
    expect(() => share('auto', array(6, 3, 6, 2))).toThrow(
      /the 2 tasks of this array are not all from 3 to 6/,
    );
    // A batch script itself is rank 0 of all tasks, and would make one share of them.
    expect(() => share('auto', { SLURM_PROCID: '0', SLURM_NTASKS: '4' })).toThrow(/begin the line with srun/);
  });
});

const PROMPTS = 20;
const MODEL = ['--name', modelFolder('bloom'), '--max_new_tokens', '6', '--temperature', '0.9'];

/** The texts of some prompts in three shares, and of all in one run; some prompts cannot be continued. */
async function madeShares() {
  const folder = newFolder();
  const input = join(folder, 'in.jsonl');
  const lines = Array.from({ length: PROMPTS }, (_, i) => ({
    prompt_token_ids: [i === 4 ? 999_999 : i, i + 1],
  }));
  writeFileSync(input, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  const words = [...MODEL, '--prompts_file', input, '--batch_size', '4', '--num_samples', '2'];
  const shares = join(folder, 'shares');
  mkdirSync(shares);
  const runs = ['0/3', '1/3', '2/3'].map((one) => runCli([...words, '--shard', one, '--output', shares]));
  const whole = join(folder, 'whole.jsonl');
  const all = await Promise.all([...runs, runCli([...words, '--seed', '0', '--output', whole])]);
  expect(all.map(({ status, errors }) => [status, errors])).toEqual(all.map(() => [0, []]));
  return { folder, input, shares, whole, words };
}

const linesIn = (path: string) => readFileSync(path, 'utf8').trimEnd().split('\n');
const inOrder = (lines: readonly string[]) => {
  const place = (line: string) => {
    const { index, sample } = JSON.parse(line) as { index: number; sample: number };
    return 2 * index + sample;
  };
  return [...lines].sort((a, b) => place(a) - place(b));
};

function merged(folder: string): TextIndex {
  const found = sharesIn(folder);
  const texts = new TextIndex(found, commonSettings(found));
  for (const _ of texts.read());
  texts.checkComplete();
  return texts;
}

it('shares of a drawn run are the lines of one run, merged in order, and say what they lack', async () => {
  const { folder, input, shares, whole, words } = await madeShares();
  const expected = inOrder(linesIn(whole));
  const [first, second] = [0, 1].map((i) => join(shares, `share-0000${i}-of-00003.jsonl`)) as [
    string,
    string,
  ];
  expect(inOrder(linesIn(second))).toEqual(expected.filter((_, place) => Math.floor(place / 2) % 3 === 1));
  const output = join(folder, 'out.jsonl');
  const result = await runCli(['merge', shares, '--output', output]);
  expect([result.status, result.errors]).toEqual([0, []]);
  expect(linesIn(output)).toEqual(expected);
  // It is a file of results like any other.
  const again = await runCli([...words, '--seed', '0', '--output', output, '--resume']);
  expect(again.logs.join()).toContain('has 40 of 40 texts; 0 are to be made');

  const content = readFileSync(second, 'utf8');
  const damage = (text: string, sentence: RegExp) => {
    writeFileSync(second, text);
    expect(() => merged(shares)).toThrow(sentence);
  };
  const lines = linesIn(second);
  damage(content.slice(0, -5), /line 14 of .*00001-of-00003.jsonl was cut off: run its --shard 1\/3 again/);
  damage(content.replace(lines[2] ?? '', 'nothing'), /line 3 of .* is damaged/);
  damage(
    content.replace(`${lines[2]}\n`, ''),
    /1 text of 40 is missing, first that of prompt \d+, sample [01]; .* --shard 1\/3/,
  );
  damage(
    `${content}${lines[0]}\n`,
    /line 15 of .* is the text of prompt \d+, sample [01], which line 1 of .* is as well/,
  );
  damage(`${linesIn(first)[3]}\n${content}`, /line 1 of .* which does not belong to share 1\/3/);
  writeFileSync(second, content);
  rmSync(first);
  const settings = readFileSync(`${first}.run.json`, 'utf8');
  rmSync(`${first}.run.json`);
  expect(() => merged(shares)).toThrow(/14 texts of 40 are missing.* none of the shares here has it/);
  copyFileSync(second, first);
  writeFileSync(`${first}.run.json`, settings.replace('"max_new_tokens": 6', '"max_new_tokens": 7'));
  expect(() => merged(shares)).toThrow(/are not of one run: their max_new_tokens is 7 and 6/);
  writeFileSync(`${first}.run.json`, settings.replace(/"sha256": "[0-9a-f]/, '"sha256": "x'));
  expect(() => merged(shares)).toThrow(/were made with other weights: model.safetensors has other content/);

  // A share that was stopped goes on, and is not taken for another.
  writeFileSync(`${first}.run.json`, settings);
  writeFileSync(first, '');
  appendFileSync(first, `${expected[0]}\n`);
  const wrong = await runCli([...words, '--shard', '1/3', '--output', first, '--resume']);
  expect(wrong.logs.join() + wrong.errors.join()).toContain('other shard ("0/3" there, "1/3" now)');
  const rest = await runCli([...words, '--shard', '0/3', '--output', first, '--resume']);
  expect([rest.status, rest.logs.join()]).toEqual([
    0,
    expect.stringContaining('has 1 of 14 texts; 13 are to be made'),
  ]);
  expect([...merged(shares).lines(() => undefined)].map(String).join('')).toBe(`${expected.join('\n')}\n`);

  const refusals: [string[], RegExp][] = [
    [['merge', shares, '--output', output], /has results: add --overwrite/],
    [['merge', shares, '--output', first], /are both|is the file/],
    [[...MODEL, '--prompt', 'a', '--shard', '0/2', '--output', input], /add --prompts_file/],
  ];
  for (const [line, sentence] of refusals) {
    const { status, errors } = await runCli(line);
    expect([status, errors.join()]).toEqual([2, expect.stringMatching(sentence)]);
  }
});
