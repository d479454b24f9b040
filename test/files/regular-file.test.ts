// Files of a checkpoint that are no files: a sentence at once, and never a read without end.

import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openModel } from '../../src/engine/open-model.js';
import { readSmallFile } from '../../src/files/regular-file.js';
import { loadChatTemplate } from '../../src/text/chat.js';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { changedCheckpoint } from '../helpers/changed-checkpoint.js';
import { failureOf } from '../helpers/hub-setting.js';
import { tempFolder } from '../helpers/temp-folder.js';

const PUTS: Readonly<Record<string, (path: string) => void | Promise<void>>> = {
  'a pipe': (path) => void execFileSync('mkfifo', [path]),
  'a device': (path) => symlinkSync('/dev/zero', path),
  'a socket': (path) =>
    new Promise((resolve) => {
      const server = createServer().listen(path, resolve);
      onTestFinished(() => void server.close());
    }),
  'a folder': (path) => mkdirSync(path),
};
const INDEX = 'model.safetensors.index.json';

test.each(
  Object.keys(PUTS).flatMap((kind) =>
    ['config.json', 'generation_config.json', 'model.safetensors', INDEX].map(
      (name) => [kind, name] as const,
    ),
  ),
)('%s in the place of %s', async (kind, name) => {
  const folder = await changedCheckpoint('llama', {});
  if (name === INDEX) rmSync(join(folder, 'model.safetensors'));
  rmSync(join(folder, name), { force: true });
  await PUTS[kind]?.(join(folder, name));
  const error = await failureOf(openModel(folder));
  expect(error.message).toMatch(new RegExp(`${name.replaceAll('.', '\\.')} is ${kind}.*not a regular file`));
});

test('a pipe in the place of PyTorch weights', async () => {
  const folder = await changedCheckpoint('llama', {});
  rmSync(join(folder, 'model.safetensors'));
  execFileSync('mkfifo', [join(folder, 'pytorch_model.bin')]);
  const error = await failureOf(openModel(folder));
  expect(error).toMatchObject({ code: 'BAD_TORCH_FILE', message: expect.stringMatching(/is a pipe/) });
});

test.each([
  ['tokenizer.json', 'PreTrainedTokenizerFast'],
  ['special_tokens_map.json', 'PreTrainedTokenizerFast'],
  ['vocab.json', 'GPT2Tokenizer'],
])('a pipe in the place of %s', async (name, tokenizerClass) => {
  const json = { 'tokenizer_config.json': { tokenizer_class: tokenizerClass } };
  const folder = await changedCheckpoint('llama', { json });
  if (name === 'vocab.json') {
    rmSync(join(folder, 'tokenizer.json'));
    writeFileSync(join(folder, 'merges.txt'), '');
  }
  rmSync(join(folder, name), { force: true });
  execFileSync('mkfifo', [join(folder, name)]);
  // Which vocabulary a folder has is decided by its files, and these are none.
  await expect(loadTokenizer(folder)).rejects.toThrow(/is a pipe, not a regular file|json is absent, and a/);
});

test('a device in the place of a chat template', async () => {
  const folder = await changedCheckpoint('llama', {});
  symlinkSync('/dev/zero', join(folder, 'chat_template.jinja'));
  await expect(loadChatTemplate(folder)).rejects.toThrow(/is a device, not a regular file/);
});

test('a configuration of gigabytes has a limit', async () => {
  const folder = await changedCheckpoint('llama', {});
  truncateSync(join(folder, 'config.json'), 2 ** 33);
  const error = await failureOf(openModel(folder));
  expect(error.message).toMatch(/config\.json has 8589934592 bytes, above the limit of 268435456/);
});

test('bytes that are no text, and a file of no bytes', async () => {
  const folder = await changedCheckpoint('llama', {});
  writeFileSync(join(folder, 'config.json'), Buffer.from([0x7b, 0xff, 0x7d]));
  expect((await failureOf(openModel(folder))).message).toMatch(/config\.json is not UTF-8 text/);
  const empty = join(tempFolder(), 'empty');
  writeFileSync(empty, '');
  expect(await readSmallFile(empty, 10, 'BAD_INPUT')).toEqual(Buffer.alloc(0));
  expect(await readSmallFile(`${empty}-not`, 10, 'BAD_INPUT')).toBeUndefined();
});
