// A second server on one folder of batches, or a folder that is damaged, would double requests or lose them.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { StoreFolder } from '../../src/batches/store-folder.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { tempFolder } from '../helpers/temp-folder.js';

const MODEL = modelFolder('stories260K');
const serve = (data: string) => runCli(['serve', MODEL, '--port', '0', '--data', data]);

it('serve is refused a folder that another server has, in a sentence, before it loads anything', async () => {
  const data = tempFolder();
  const store = await StoreFolder.open(data);
  const { status, errors } = await serve(data);
  store.close();
  expect(status).toBe(8);
  expect(errors).toEqual([
    `zero-inference: WRITE_FAILED: --data: ${data}: another server uses it: give each its own`,
  ]);
});

it('serve says which file of its folder is damaged', async () => {
  const data = tempFolder();
  const batch = join(data, 'batches', 'batch_1');
  mkdirSync(batch, { recursive: true });
  writeFileSync(join(batch, 'batch.json'), '{"id":');
  const { status, errors } = await serve(data);
  expect(status).toBe(8);
  expect(errors).toEqual([
    expect.stringMatching(
      /^zero-inference: READ_FAILED: --data: .*batch_1\/batch\.json is damaged .*: move it/,
    ),
  ]);
});
