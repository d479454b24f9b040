// A process that works through a store's batches with answers of its own, until it is killed: run by its compiled file.

import { setTimeout } from 'node:timers/promises';
import { Batches } from '../../src/batches/batches.js';
import { StoreFolder } from '../../src/batches/store-folder.js';
import { StoredFiles } from '../../src/batches/stored-files.js';

const [, , folder = '', input = '', mostMs = '2'] = process.argv;

const store = await StoreFolder.open(folder);
const files = new StoredFiles(store);
const batches = new Batches({
  store,
  files,
  atOnce: 8,
  tell: () => undefined,
  answer: async (_, body) => {
    await setTimeout(Math.random() * Number(mostMs));
    return { kind: 'whole', status: 200, body: { echo: body } };
  },
});
const file = files.find(input, null);
if (!file) throw new Error('there is no such input');
const [known] = batches.list(null);
const { id } =
  known ??
  batches.create(file, {
    owner: null,
    endpoint: '/v1/completions',
    completion_window: '24h',
    metadata: null,
  });
batches.start();
process.stdout.write(`working on ${id}\n`);
while (batches.find(id, null)?.status !== 'completed') await setTimeout(5);
await batches.close();
store.close();
process.stdout.write('completed\n');
