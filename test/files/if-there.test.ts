// What the system does not answer is no absence: a run would go on without a tokenizer, a template or a shard.

import { mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { ifThere } from '../../src/files/if-there.js';
import { resolveModelFolder } from '../../src/hub/model-folder.js';
import { checkTokenizerFiles, hasTokenizer } from '../../src/text/tokenizer/settings.js';
import { tempFolder } from '../helpers/temp-folder.js';

/** A name that leads to itself, so that asking after it fails, as on a drive that has gone. */
async function broken(folder: string, name: string): Promise<string> {
  const path = join(folder, name);
  await symlink(path, path);
  return path;
}

it('tells absence from what cannot be told', async () => {
  const folder = tempFolder();
  const file = join(folder, 'file');
  await writeFile(file, '');
  expect(await ifThere('none', readdir(join(folder, 'none')))).toBeUndefined();
  expect(await ifThere('below', readdir(join(file, 'below')))).toBeUndefined();
  expect(await ifThere('long', readdir('x'.repeat(5000)))).toBeUndefined();
  const path = await broken(folder, 'loop');
  await expect(ifThere(path, readdir(path))).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

it('a tokenizer that cannot be looked at is not taken for none', async () => {
  const folder = tempFolder();
  await broken(folder, 'tokenizer.json');
  await expect(hasTokenizer(folder)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await expect(checkTokenizerFiles(folder)).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

it('a folder that cannot be looked at is not taken for a model of the hub', async () => {
  const folder = tempFolder();
  await broken(folder, 'model');
  await expect(resolveModelFolder(join(folder, 'model'))).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

it('a cache whose ref cannot be read is not taken for one without it', async () => {
  const folder = tempFolder();
  const refs = join(folder, 'models--a--b', 'refs');
  await mkdir(refs, { recursive: true });
  await symlink(join(refs, 'main'), join(refs, 'main'));
  const env = { HF_HUB_CACHE: folder, HF_HUB_OFFLINE: '1' };
  await expect(resolveModelFolder('a/b', { env })).rejects.toThrow(/cannot be looked at/);
});
