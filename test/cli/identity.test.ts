// --resume goes on with results of the same model only: told by content, not by size, name or place.

import { cpSync, readFileSync, renameSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { keepingTime, overwrite } from '../helpers/overwrite.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();
const WEIGHTS = 'model.safetensors';
const CONFIG = 'tokenizer_config.json';

interface Run {
  readonly model: string;
  readonly output: string;
  readonly words: readonly string[];
}

function runIn(folder: string, more: readonly string[]): Run & { readonly input: string } {
  const [model, input, output] = ['model', 'in.jsonl', 'out.jsonl'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  const words = ['--prompts_file', input, '--max_new_tokens', '4', '--output', output, ...more];
  return { model, input, output, words };
}

const made = new Map<string, Promise<string>>();

/** Results of which one text is made and two are not, by a model of their own. */
async function begun(more: readonly string[] = []): Promise<Run> {
  const key = more.join();
  const original = made.get(key) ?? makeResults(more);
  made.set(key, original);
  const folder = newFolder();
  cpSync(await original, folder, { recursive: true });
  return runIn(folder, more);
}

async function makeResults(more: readonly string[]): Promise<string> {
  const folder = newFolder();
  const { model, input, output, words } = runIn(folder, more);
  cpSync(modelFolder('shakespeare-bloom'), model, { recursive: true });
  edit(join(model, CONFIG), { chat_template: '{{ messages[0].content }}:' });
  writeFileSync(input, ['KING', 'QUEEN', 'The'].map((prompt) => `${JSON.stringify({ prompt })}\n`).join(''));
  expect((await runCli(['--name', model, ...words])).errors).toEqual([]);
  const [first] = readFileSync(output, 'utf8').split('\n');
  writeFileSync(output, `${first}\n`);
  return folder;
}

function edit(path: string, values: Readonly<Record<string, unknown>>): void {
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...values }));
}

const goOn = ({ model, words }: Run, name = model) => runCli(['--name', name, ...words, '--resume']);

describe.concurrent('--resume', () => {
  it.each<[string, (model: string) => string | undefined]>([
    ['touched', (model) => void utimesSync(join(model, WEIGHTS), 1, 1) as undefined],
    [
      'copied',
      (model) => {
        cpSync(model, `${model}-copy`, { recursive: true });
        return `${model}-copy`;
      },
    ],
    [
      'moved',
      (model) => {
        renameSync(model, `${model}-moved`);
        return `${model}-moved`;
      },
    ],
    // Which only --chat looks at.
    [
      'given another chat template',
      (model) => edit(join(model, CONFIG), { chat_template: 'x' }) as undefined,
    ],
  ])('goes on where the model was %s', async (_, change) => {
    const run = await begun();
    const result = await goOn(run, change(run.model));
    expect(result.errors).toEqual([]);
    expect(result.status).toBe(0);
    expect(readFileSync(run.output, 'utf8').trimEnd().split('\n')).toHaveLength(3);
  });

  it.each<[string, RegExp, (model: string) => void, (readonly string[])?]>([
    [
      'weights that differ in a byte, with size and time as they were',
      /with other weights: \S+model\.safetensors has other content/,
      (model) =>
        keepingTime(join(model, WEIGHTS), () => overwrite(join(model, WEIGHTS), 500_000, Buffer.from([1]))),
    ],
    [
      'another tokenizer',
      /with other tokenizer /,
      (model) => {
        const path = join(model, 'tokenizer.json');
        writeFileSync(
          path,
          readFileSync(path, 'utf8')
            .replace('"normalizer":null', '"normalizer": {"type":"NFC"}')
            .replace('"version"', '"version" '),
        );
      },
    ],
    [
      'another chat template',
      /with other chat_template /,
      (model) => edit(join(model, CONFIG), { chat_template: 'x' }),
      ['--chat'],
    ],
    [
      'another configuration',
      /with other configuration /,
      (model) => edit(join(model, 'config.json'), { layer_norm_epsilon: 1e-6 }),
    ],
  ])('refuses %s', async (_, words, change, more) => {
    const run = await begun(more);
    const before = readFileSync(run.output, 'utf8');
    change(run.model);
    const result = await goOn(run);
    expect(result.errors.join()).toMatch(/BAD_INPUT: --resume: /);
    expect(result.errors.join()).toMatch(words);
    expect(result.status).toBe(2);
    expect(readFileSync(run.output, 'utf8')).toBe(before);
  });

  it('refuses results of a version that did not keep which weights made them', async () => {
    const run = await begun();
    const path = `${run.output}.run.json`;
    const { weights: _, ...rest } = JSON.parse(readFileSync(path, 'utf8'));
    for (const weights of [undefined, [{}]]) {
      writeFileSync(path, JSON.stringify({ ...rest, weights }));
      const result = await goOn(run);
      expect(result.status).toBe(2);
      expect(result.errors.join()).toMatch(/did not keep which weights make them/);
    }
  });
});
