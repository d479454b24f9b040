// Packing that is stopped, goes on, or meets another pack: a store is there whole or not at all, and nothing is done twice.

import {
  appendFileSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { keepPacked } from '../../src/pack/kept.js';
import { pack } from '../../src/pack/pack.js';
import { PACK_RECORD } from '../../src/pack/record.js';
import { changedCheckpoint } from '../helpers/changed-checkpoint.js';
import { modelFolder } from '../helpers/fixtures.js';
import { keepingTime, overwrite } from '../helpers/overwrite.js';
import { packFolder, packOptions } from '../helpers/pack-fixture.js';
import { failureOf } from '../helpers/staging.js';
import { tempFolder } from '../helpers/temp-folder.js';

const SOURCE = modelFolder('shakespeare-bloom');
const newFolder = () => join(tempFolder(), 'store');

afterEach(() => {
  vi.restoreAllMocks();
});

/** Contents by name, but for the record, which has times. */
function contentOf(folder: string): Record<string, string> {
  const names = readdirSync(folder).filter((name) => name !== PACK_RECORD);
  return Object.fromEntries(names.map((name) => [name, readFileSync(join(folder, name), 'hex')]));
}

async function wholeStore(source = SOURCE): Promise<Record<string, string>> {
  const folder = newFolder();
  await packFolder(source, folder);
  return contentOf(folder);
}

/** Packs until `files` files are whole, and stops. */
async function stopped(folder: string, files: number, source = SOURCE): Promise<void> {
  const options = await packOptions(source, folder);
  const stop = new AbortController();
  const partial = `${folder}.partial`;
  const onProgress = () => {
    const whole = existsSync(partial) ? readdirSync(partial).filter((name) => /^block/.test(name)) : [];
    if (whole.length > files) stop.abort();
  };
  const error = await failureOf(pack({ ...options, signal: stop.signal, onProgress }));
  expect(error.code).toBe('INTERRUPTED');
  expect(existsSync(folder)).toBe(false);
}

/** The files that were whole in the folder, with when they were written. */
function wholeFiles(folder: string): Map<string, number> {
  const record = JSON.parse(readFileSync(join(`${folder}.partial`, PACK_RECORD), 'utf8'));
  const names = record.files.map(({ name }: { name: string }) => name) as string[];
  return new Map(names.map((name) => [name, statSync(join(`${folder}.partial`, name)).mtimeMs]));
}

describe('a pack that was stopped', () => {
  it('goes on with the layers that are whole', async () => {
    const folder = newFolder();
    await stopped(folder, 3);
    const whole = wholeFiles(folder);
    expect(whole.size).toBeGreaterThanOrEqual(2);
    expect(whole.size).toBeLessThan(9);
    // As a killed process leaves it.
    appendFileSync(join(`${folder}.partial`, 'block-00007.safetensors'), 'half');
    writeFileSync(join(`${folder}.partial`, 'config.json.partial'), '{');
    const log: string[] = [];
    const options = await packOptions(SOURCE, folder);
    const layers = await pack({ ...options, log: (message) => log.push(message) });
    expect(log.join()).toContain(`${whole.size} of 9 files are whole`);
    for (const [name, mtimeMs] of whole) expect(statSync(join(folder, name)).mtimeMs).toBe(mtimeMs);
    expect(contentOf(folder)).toEqual(await wholeStore());
    expect(readdirSync(dirname(folder))).toEqual(['store']);
    // What was lost is told of the layers that were there as well.
    expect(layers.slice(0, 8).every(({ lostSquares }) => lostSquares > 0)).toBe(true);
  });

  it('makes anew what was touched since', async () => {
    const folder = newFolder();
    await stopped(folder, 3);
    const [[first = ''] = []] = wholeFiles(folder);
    const path = join(`${folder}.partial`, first);
    keepingTime(path, () => overwrite(path, statSync(path).size - 10));
    await packFolder(SOURCE, folder);
    expect(contentOf(folder)).toEqual(await wholeStore());
  });

  it.each([
    ['another source', async (source: string) => utimesSync(join(source, 'model.safetensors'), 1, 1), {}],
    ['other settings', async () => undefined, { weights: 'int8' as const }],
    ['other files', async () => undefined, { gpus: 2 }],
  ])('begins anew for %s', async (_what, change, settings) => {
    const source = tempFolder();
    cpSync(SOURCE, source, { recursive: true });
    const folder = newFolder();
    await stopped(folder, 3, source);
    await change(source);
    const log: string[] = [];
    await pack({ ...(await packOptions(source, folder, settings)), log: (message) => log.push(message) });
    expect(log).toEqual([]);
    const other = newFolder();
    await packFolder(source, other, settings);
    expect(contentOf(folder)).toEqual(contentOf(other));
  });

  it('removes nothing that is of nobody it knows', async () => {
    const folder = newFolder();
    mkdirSync(`${folder}.partial`);
    writeFileSync(join(`${folder}.partial`, 'thesis.txt'), 'all of it');
    const error = await failureOf(packFolder(SOURCE, folder));
    expect([error.code, error.message]).toEqual(['WRITE_FAILED', expect.stringContaining('is of no pack')]);
    expect(readdirSync(`${folder}.partial`)).toEqual(['thesis.txt']);
  });
});

describe('a drive that fills up', () => {
  it('leaves what a later run goes on with, and nothing under the name', async () => {
    const folder = newFolder();
    const probe = await open(join(tempFolder(), 'x'), 'w');
    const handles = Object.getPrototypeOf(probe) as FileHandle;
    await probe.close();
    const write = handles.write;
    let writes = 0;
    const refusal = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
    const full = vi.spyOn(handles, 'write').mockImplementation(function (this: FileHandle, ...all) {
      return ++writes > 4 ? Promise.reject(refusal) : write.apply(this, all);
    });
    const error = await failureOf(packFolder(SOURCE, folder));
    expect([error.code, error.message]).toEqual(['NO_SPACE', expect.stringContaining('full')]);
    expect(existsSync(folder)).toBe(false);
    full.mockRestore();
    const whole = wholeFiles(folder);
    expect(whole.size).toBeGreaterThan(0);
    await packFolder(SOURCE, folder);
    for (const [name, mtimeMs] of whole) expect(statSync(join(folder, name)).mtimeMs).toBe(mtimeMs);
    expect(contentOf(folder)).toEqual(await wholeStore());
  });

  it('is refused beforehand where it has too little space', async () => {
    const options = await packOptions(SOURCE, newFolder());
    const files = options.plan.files.map((file) => ({ ...file, sizeBytes: 1e15 }));
    const error = await failureOf(pack({ ...options, plan: { ...options.plan, files } }));
    expect([error.code, error.message]).toEqual([
      'NO_SPACE',
      expect.stringMatching(/takes .* more and .* free/),
    ]);
  });
});

describe('a place', () => {
  it('that is taken, the checkpoint itself, or cannot be made, is refused', async () => {
    const taken = newFolder();
    mkdirSync(taken);
    writeFileSync(join(taken, 'mine'), '');
    const source = tempFolder();
    cpSync(SOURCE, source, { recursive: true });
    const cases = [
      [SOURCE, taken, 'WRITE_FAILED', /exists/],
      [source, `${source}/.`, 'BAD_OPTION', /the checkpoint itself/],
      [SOURCE, '/proc/none/store', 'WRITE_FAILED', /cannot be made/],
      [SOURCE, join(SOURCE, 'config.json'), 'WRITE_FAILED', /exists/],
    ] as const;
    for (const [from, to, code, message] of cases) {
      const error = await failureOf(packFolder(from, to));
      expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
    }
    expect(readdirSync(taken)).toEqual(['mine']);
  });

  it('may be reached by a link, but not by one that leads nowhere', async () => {
    const [folder, parent] = [newFolder(), tempFolder()];
    mkdirSync(folder);
    symlinkSync(folder, join(parent, 'link'));
    symlinkSync(join(parent, 'none'), join(parent, 'dangling'));
    await packFolder(SOURCE, join(parent, 'link'));
    expect(contentOf(folder)).toEqual(await wholeStore());
    const error = await failureOf(packFolder(SOURCE, join(parent, 'dangling')));
    expect([error.code, error.message]).toEqual(['WRITE_FAILED', expect.stringContaining('not there')]);
  });

  it('may be an empty folder', async () => {
    const folder = newFolder();
    mkdirSync(folder);
    await packFolder(SOURCE, folder);
    expect(contentOf(folder)).toEqual(await wholeStore());
  });
});

describe('two packs at once', () => {
  it('into one folder: one writes it, the other is told that it is there', async () => {
    const folder = newFolder();
    const waits: string[] = [];
    const options = {
      ...(await packOptions(SOURCE, folder)),
      onWait: (holder: string) => waits.push(holder),
    };
    const results = await Promise.allSettled([pack(options), pack(options)]);
    expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(contentOf(folder)).toEqual(await wholeStore());
  });

  it('of weights that are kept: both have them', async () => {
    const folder = newFolder();
    const options = await packOptions(SOURCE, folder);
    await Promise.all([keepPacked(options), keepPacked(options), keepPacked(options)]);
    const { mtimeMs } = statSync(join(folder, 'rest.safetensors'));
    await keepPacked(options);
    expect(statSync(join(folder, 'rest.safetensors')).mtimeMs).toBe(mtimeMs);
    keepingTime(join(folder, 'rest.safetensors'), () => overwrite(join(folder, 'rest.safetensors'), 5000));
    const error = await failureOf(keepPacked(options));
    expect([error.code, error.message]).toEqual([
      'WRITE_FAILED',
      expect.stringContaining('rest.safetensors'),
    ]);
  });
});

describe('weights', () => {
  it('that are no finite numbers are named, and nothing stays', async () => {
    const source = await changedCheckpoint('bloom', {
      tensors: (tensors) =>
        tensors.map((tensor) => {
          if (!tensor.name.endsWith('h.1.mlp.dense_4h_to_h.weight')) return tensor;
          const data = Buffer.from(tensor.data);
          // No number in either type of 16 bits.
          data.writeUInt16LE(0x7fc0, 2 * ((tensor.shape[1] ?? 0) * 2 + 5));
          return { ...tensor, data };
        }),
    });
    const folder = newFolder();
    const error = await failureOf(packFolder(source, folder));
    expect([error.code, error.message]).toEqual([
      'NOT_FINITE',
      expect.stringMatching(/h\.1\.mlp\.dense_4h_to_h\.weight .* row 2 and column 5/),
    ]);
    expect(readdirSync(dirname(folder))).toEqual([]);
  });

  it('that change while they are read are told of', async () => {
    const source = tempFolder();
    cpSync(SOURCE, source, { recursive: true });
    const options = await packOptions(source, newFolder());
    overwrite(join(source, 'model.safetensors'), 7_000_000);
    expect((await failureOf(pack(options))).code).toBe('FILE_CHANGED');
    expect(existsSync(options.folder)).toBe(false);
  });
});

describe('a store of parts from different packs', () => {
  it.each([
    ['of another pack', 'block-00003.safetensors', /is of pack [0-9a-f]+ and .* is of pack/],
    ['of no pack', 'model.safetensors', /is of no pack/],
  ])('is refused where one is %s', async (_what, name, message) => {
    const [folder, other] = [newFolder(), newFolder()];
    await packFolder(SOURCE, folder);
    await packFolder(SOURCE, other, { weights: 'int8' });
    const part = name === 'model.safetensors' ? join(SOURCE, name) : join(other, name);
    rmSync(join(folder, 'block-00003.safetensors'));
    copyFileSync(part, join(folder, 'block-00003.safetensors'));
    const error = await failureOf(openCheckpoint(folder));
    expect([error.code, error.message]).toEqual(['MIXED_PACKS', expect.stringMatching(message)]);
  });
});
