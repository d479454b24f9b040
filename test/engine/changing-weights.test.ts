// Weight files that change under a run: nothing that was made of them is given out, wherever the weights rest.

import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  linkSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { OperatingError } from '../../offload/errors.js';
import { LoadAhead } from '../../offload/stream/load-ahead.js';
import { Engine } from '../../src/engine/engine.js';
import type { EngineOptions } from '../../src/engine/engine-options.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import { score } from '../../src/engine/score.js';
import { stageCheckpoint } from '../../src/staging/staging.js';
import { runCli } from '../helpers/cli.js';
import { goldenOf, modelFolder } from '../helpers/fixtures.js';
import { keepingTime, overwrite } from '../helpers/overwrite.js';
import { tempFolder } from '../helpers/temp-folder.js';

const NAME = 'bloom';
const NEW_TOKENS = 40;
const OTHER_DRIVE = '/dev/shm';
const hasOtherDrive = existsSync(OTHER_DRIVE) && statSync(OTHER_DRIVE).dev !== statSync(tempFolder()).dev;

function copyOfModel(): { folder: string; weights: string } {
  const folder = join(tempFolder(), 'model');
  cpSync(modelFolder(NAME), folder, { recursive: true });
  return { folder, weights: join(folder, 'model.safetensors') };
}

type Setting = Partial<EngineOptions>;

const SETTINGS: readonly [string, Setting][] = [
  ['streamed from the drive', { offload: 'nvme' }],
  ['at rest in DRAM', { offload: 'dram' }],
  ['on two virtual devices', { offload: 'nvme', cpu: { virtualDevices: 2 } }],
  [
    'read by threads through the page cache',
    { offload: 'nvme', cpu: { io: { engine: 'threads', direct: false } } },
  ],
];

interface Made {
  readonly tokens: readonly number[];
  readonly error: unknown;
}

/** Makes a text, and has `change` happen after so many tokens. */
async function tokensWhile(folder: string, setting: Setting, change: () => void, after = 5): Promise<Made> {
  const prompt = Int32Array.from(goldenOf(NAME).input_ids[0] ?? []);
  const workload = { sequences: 1, contextTokens: prompt.length + NEW_TOKENS, promptTokens: prompt.length };
  const engine = await Engine.open(await openModel(folder), {
    offload: 'nvme',
    ...setting,
    workload: { ...workload, newTokens: NEW_TOKENS, output: 'tokens' },
  });
  const tokens: number[] = [];
  if (after === 0) change();
  try {
    await generate(engine.executor, [{ index: 0, promptTokens: prompt }], {
      batchSize: 1,
      maxNewTokens: NEW_TOKENS,
      stopTokens: new Set(),
      onToken: (_, token) => {
        if (tokens.push(token) === after) change();
      },
    });
    return { tokens, error: undefined };
  } catch (error) {
    return { tokens, error };
  } finally {
    await engine.close();
  }
}

function expectChanged(error: unknown, words: RegExp): void {
  expect(error).toBeInstanceOf(OperatingError);
  expect(error).toMatchObject({ code: 'FILE_CHANGED', message: expect.stringMatching(words) });
}

describe.each(SETTINGS)('weights %s', (_, setting) => {
  it('that are overwritten in place: the tokens before stay, and none comes after', async () => {
    const { folder, weights } = copyOfModel();
    const whole = await tokensWhile(folder, setting, () => undefined);
    expect(whole.tokens).toHaveLength(NEW_TOKENS);
    expect(whole.error).toBeUndefined();
    const cut = await tokensWhile(folder, setting, () => overwrite(weights));
    expectChanged(cut.error, /model\.safetensors was written to or touched at \d{4}-.*not given out/);
    expect(cut.tokens).toEqual(whole.tokens.slice(0, 5));
  });

  it('that are overwritten before any layer was read', async () => {
    const { folder, weights } = copyOfModel();
    const { tokens, error } = await tokensWhile(folder, setting, () => overwrite(weights), 0);
    expectChanged(error, /was written to/);
    expect(tokens).toEqual([]);
  });

  it('that are overwritten while a text is scored', async () => {
    const { folder, weights } = copyOfModel();
    const ids = Int32Array.from(goldenOf(NAME).nll_ids);
    const windowTokens = 8;
    const engine = await Engine.open(await openModel(folder), {
      offload: 'nvme',
      ...setting,
      workload: { sequences: 1, contextTokens: windowTokens, promptTokens: windowTokens, output: 'nll' },
    });
    let passes = 0;
    const onProgress = () => {
      if (++passes === 2) overwrite(weights);
    };
    const work = score(engine.executor, ids, { windowTokens, onProgress });
    expectChanged(await work.catch((error: unknown) => error), /was written to/);
    expect(passes).toBe(2);
    await engine.close();
  });
});

describe('what is done to a file under a run', () => {
  const reference = tokensWhile(modelFolder(NAME), {}, () => undefined);

  it.each<[string, (path: string) => void, RegExp]>([
    [
      'is cut and written again',
      (path) => copyFileSync(join(modelFolder('bloom-6-heads'), 'config.json'), path),
      /had \d+ bytes.*has \d+ now/,
    ],
    ['grows', (path) => appendFileSync(path, 'x'), /had 455152 bytes when it was opened and has 455153 now/],
    [
      'is written to, and its time set back',
      (path) => keepingTime(path, () => overwrite(path)),
      /was changed at .*, though its time of writing is as before/,
    ],
    ['is touched, which looks like a write', (path) => utimesSync(path, 1, 1), /touched at 1970-01-01/],
  ])('ends it where the file %s', async (_, change, words) => {
    const { folder, weights } = copyOfModel();
    const { error, tokens } = await tokensWhile(folder, {}, () => change(weights));
    expectChanged(error, words);
    expect(tokens).toEqual((await reference).tokens.slice(0, 5));
  });

  it.each<[string, (path: string) => void]>([
    [
      'replaced by another under its name',
      (path) => {
        writeFileSync(`${path}.new`, readFileSync(path).fill(7));
        renameSync(`${path}.new`, path);
      },
    ],
    ['removed', (path) => rmSync(path)],
    ['renamed', (path) => renameSync(path, `${path}.old`)],
    ['linked', (path) => linkSync(path, `${path}.link`)],
    ['made read-only', (path) => chmodSync(path, 0o444)],
    ['read by others', (path) => void readFileSync(path)],
  ])('goes on with what it opened where the file is %s', async (_, change) => {
    const { folder, weights } = copyOfModel();
    const { error, tokens } = await tokensWhile(folder, {}, () => change(weights));
    expect(error).toBeUndefined();
    expect(tokens).toEqual((await reference).tokens);
  });

  it('is seen again after something harmless was done', async () => {
    const { folder, weights } = copyOfModel();
    const { error } = await tokensWhile(folder, {}, () => {
      chmodSync(weights, 0o600);
      setTimeout(() => overwrite(weights), 0);
    });
    expectChanged(error, /was written to/);
  });

  it('is seen where layers are read ahead, before there is an engine', async () => {
    const { folder, weights } = copyOfModel();
    const opened = await openModel(folder);
    const ahead = new LoadAhead(opened.model, opened.checkpoint.files);
    overwrite(weights);
    const options: EngineOptions = {
      offload: 'dram',
      workload: { sequences: 1, contextTokens: 8, promptTokens: 4, newTokens: 4, output: 'tokens' },
    };
    const error = await Engine.open(opened, options, ahead).catch((thrown: unknown) => thrown);
    expectChanged(error, /was written to/);
    await ahead.close();
  });

  it('is seen between its header and its first layer', async () => {
    const { folder, weights } = copyOfModel();
    const opened = await openModel(folder);
    const options: EngineOptions = {
      offload: 'nvme',
      workload: { sequences: 1, contextTokens: 8, promptTokens: 4, newTokens: 4, output: 'tokens' },
    };
    copyFileSync(weights, `${weights}.new`);
    renameSync(`${weights}.new`, weights);
    const replaced = await Engine.open(opened, options).catch((error: unknown) => error);
    expectChanged(replaced, /was replaced after its header had been read/);
  });
});

describe.skipIf(!hasOtherDrive)('staged copies (needs /dev/shm)', () => {
  it('are watched like the checkpoint’s own files', async () => {
    const { folder } = copyOfModel();
    const { checkpoint } = await openModel(folder);
    const { files, fileStates } = await stageCheckpoint(checkpoint, tempFolder(OTHER_DRIVE));
    const change = () => overwrite(files[0] ?? '');
    const { error, tokens } = await tokensWhile(folder, { files, fileStates }, change);
    expectChanged(error, /zero-inference-.*was written to/);
    expect(tokens).toHaveLength(5);
    // The same states say so at the next opening.
    const again = await tokensWhile(folder, { files, fileStates }, () => undefined).catch(
      (failure: unknown) => failure,
    );
    expectChanged(again, /was written to/);
  });
});

describe('the command line', () => {
  it('writes no line of a text that was made after the change, and ends with status 8', async () => {
    const { folder, weights } = copyOfModel();
    const [input, output, whole] = ['in.jsonl', 'out.jsonl', 'whole.jsonl'].map((name) =>
      join(folder, name),
    ) as [string, string, string];
    const prompts = Array.from({ length: 400 }, (_, i) => ({ prompt_token_ids: [1 + (i % 300), 2, 3] }));
    writeFileSync(input, prompts.map((prompt) => `${JSON.stringify(prompt)}\n`).join(''));
    const words = ['--name', folder, '--prompts_file', input, '--max_new_tokens', '12', '--batch_size', '2'];
    await runCli([...words, '--output', whole]);
    let changed = false;
    const result = await runCli([...words, '--nvme_offload_path', folder, '--output', output], {
      onStdout: (_, text) => {
        if (changed || text.split('\nout=').length < 5) return;
        changed = true;
        overwrite(weights);
      },
    });
    expect(result.status).toBe(8);
    expect(result.errors.join()).toMatch(/FILE_CHANGED.*model\.safetensors was written to/);
    const lines = readFileSync(output, 'utf8').trimEnd().split('\n');
    const right = new Set(readFileSync(whole, 'utf8').trimEnd().split('\n'));
    expect(lines.length).toBeLessThan(400);
    expect(lines.filter((line) => !right.has(line))).toEqual([]);
  });
});
