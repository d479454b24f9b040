// One call may bring fewer bytes than were asked for: what is read whole is the same however many calls it takes.

import { writeFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readWhole } from '../../src/files/read-whole.js';
import { contentId } from '../../src/staging/id.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

/** Every read of a file brings half of what it could, while `work` runs. */
async function withHalves<T>(work: () => Promise<T>): Promise<T> {
  const opened = await open('/dev/null');
  const prototype = Object.getPrototypeOf(opened) as { read: (...args: unknown[]) => unknown };
  await opened.close();
  const { read } = prototype;
  prototype.read = function (this: FileHandle, bytes, at, length, ...rest) {
    return read.call(this, bytes, at, Math.ceil(Number(length) / 2), ...rest);
  };
  try {
    return await work();
  } finally {
    prototype.read = read;
  }
}

test('halves add up, to the end of the file', async () => {
  const path = join(newFolder(), 'bytes');
  writeFileSync(path, Buffer.from(Array.from({ length: 100 }, (_, index) => index)));
  const bytes = Buffer.alloc(90);
  const count = await withHalves(async () => {
    const file = await open(path);
    try {
      return await readWhole(file, bytes, 20);
    } finally {
      await file.close();
    }
  });
  expect(count).toBe(80);
  expect([...bytes.subarray(0, 80)]).toEqual(Array.from({ length: 80 }, (_, index) => index + 20));
});

test('copies of weights keep their name', async () => {
  const files = [join(modelFolder('bloom'), 'model.safetensors')];
  expect(await withHalves(() => contentId(files))).toBe(await contentId(files));
});
