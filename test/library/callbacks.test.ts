// What a program's own functions do, and what others do to its files, ends what it must and nothing else.

import { cpSync, readdirSync, readFileSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished, vi } from 'vitest';
import { type Logger, type OpenOptions, open } from '../../src/index.js';
import { modelFolder } from '../helpers/fixtures.js';
import { FakeHub } from '../helpers/hub-server.js';
import { tempFolder } from '../helpers/temp-folder.js';

const FOLDER = modelFolder('llama');
const OWN = new Error('the program’s own');
const fail = () => {
  throw OWN;
};

async function hub(): Promise<FakeHub> {
  const files = Object.fromEntries(
    readdirSync(FOLDER).map((name) => [name, readFileSync(join(FOLDER, name))]),
  );
  const started = await FakeHub.start(files);
  const cache = tempFolder();
  const env = { HF_ENDPOINT: started.endpoint, HF_HUB_CACHE: cache, HF_HOME: cache, HF_HUB_OFFLINE: '' };
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value);
  onTestFinished(async () => {
    vi.unstubAllEnvs();
    await started.stop();
  });
  return started;
}

const quiet: Logger = { debug: () => undefined, info: () => undefined, warn: () => undefined };
const throwing: readonly (readonly [string, OpenOptions])[] = [
  ['progress', { onProgress: fail }],
  ['a logger', { logger: { ...quiet, info: fail } }],
];
it.each(throwing)(
  '%s that throws ends opening with what it throws, and the next one goes on',
  async (_, options) => {
    await hub();
    await expect(open('org/model', { device: 'cpu', ...options })).rejects.toBe(OWN);
    const engine = await open('org/model', { device: 'cpu', contextTokens: 32 });
    expect((await engine.generate({ tokens: [5] }, { maxNewTokens: 2 }).result).tokens).toHaveLength(2);
    await engine.close();
  },
);

it('a signal ends a download with its reason', async () => {
  const { requests } = await hub();
  const controller = new AbortController();
  const opening = open('org/model', {
    device: 'cpu',
    signal: controller.signal,
    onProgress: () => controller.abort(OWN),
  });
  await expect(opening).rejects.toBe(OWN);
  const asked = requests.length;
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(requests.length).toBe(asked);
});

it('weights that somebody writes to end all texts with FILE_CHANGED, later ones too', async () => {
  const folder = tempFolder();
  cpSync(FOLDER, folder, { recursive: true });
  const engine = await open(folder, { device: 'cpu', offload: 'nvme', contextTokens: 128 });
  const ask = () => engine.generate({ tokens: [5, 6] }, { maxNewTokens: 100, stopTokens: [] });
  const texts = [ask(), ask(), ask()];
  for await (const _ of texts[0] as (typeof texts)[number]) {
    for (const name of readdirSync(folder).filter((file) => file.endsWith('.safetensors'))) {
      utimesSync(join(folder, name), new Date(), new Date());
    }
    break;
  }
  for (const text of [...texts.slice(1), ask()]) {
    await expect(text.result).rejects.toMatchObject({ code: 'FILE_CHANGED' });
  }
  await engine.close();
  await engine.close();
});
