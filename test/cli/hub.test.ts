// The command line with a model of the hub: downloaded once, refused before its weights, used offline afterwards.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { FakeHub } from '../helpers/hub-server.js';
import { tempFolder } from '../helpers/temp-folder.js';

const PROMPT = ['--prompt', 'KING RICHARD III:', '--max_new_tokens', '8'];

async function start(changes: Readonly<Record<string, string>> = {}) {
  const folder = modelFolder('shakespeare-bloom');
  const files = Object.fromEntries(
    readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]),
  );
  const hub = await FakeHub.start({ ...files, ...changes });
  onTestFinished(() => hub.stop());
  const cache = tempFolder();
  return { hub, env: { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cache, HF_HOME: cache, HF_HUB_OFFLINE: '' } };
}

test('downloads, generates, and needs no network again', async () => {
  const { hub, env } = await start();
  const first = await runCli(['--name', 'org/model', ...PROMPT], { env });
  expect(first.errors).toEqual([]);
  expect(first.status).toBe(0);
  expect(first.logs.join('\n')).toMatch(/downloading org\/model into/);
  const local = await runCli(['--name', modelFolder('shakespeare-bloom'), ...PROMPT]);
  expect(first.stdout).toBe(local.stdout);
  await hub.stop();
  const again = await runCli(['--name', 'org/model', ...PROMPT], { env: { ...env, HF_HUB_OFFLINE: '1' } });
  expect(again.stdout).toBe(local.stdout);
});

test('an architecture that is not supported is refused before its weights are downloaded', async () => {
  const { hub, env } = await start({ 'config.json': '{"model_type":"rwkv"}' });
  const { status, errors } = await runCli(['--name', 'org/model', ...PROMPT], { env });
  expect(status).toBe(4);
  expect(errors.join('\n')).toMatch(/UNSUPPORTED: .*model_type "rwkv"/);
  expect(hub.downloads('model.safetensors')).toEqual([]);
});

test('a revision of a folder, or of a shape', async () => {
  const folder = modelFolder('bloom');
  for (const args of [
    ['--name', folder],
    ['--name', 'configs/models/llama-4b.json', '--dummy_weights'],
  ]) {
    const { status, errors } = await runCli([...args, '--revision', 'v1']);
    expect(status).toBe(2);
    expect(errors.join('\n')).toMatch(/BAD_OPTION: .*revision/);
  }
});

test('prompts of text are refused before weights are downloaded, where there is no tokenizer to read them', async () => {
  const { hub, env } = await start();
  hub.files.delete('tokenizer.json');
  const { status, errors } = await runCli(['--name', 'org/model', ...PROMPT], { env });
  expect(status).toBe(5);
  expect(errors.join('\n')).toMatch(/BAD_TOKENIZER: /);
  expect(hub.downloads('model.safetensors')).toEqual([]);
  const chat = await start();
  const refused = await runCli(['--name', 'org/model', '--chat', ...PROMPT], { env: chat.env });
  expect(refused.errors.join('\n')).toMatch(/BAD_OPTION: chats need a chat template/);
  expect(chat.hub.downloads('model.safetensors')).toEqual([]);
});
