// Staging weights on another drive: in place if possible, else one copy that survives kills, touches and rivals.

import {
  appendFileSync,
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { stateOfPath } from '../../offload/port/file-state.js';
import { CHUNK_BYTES } from '../../src/staging/copy.js';
import { stageCheckpoint } from '../../src/staging/staging.js';
import { keepingTime } from '../helpers/overwrite.js';
import { safetensorsBytes } from '../helpers/safetensors.js';
import { expectCopyOf, failureOf, meter, overwriteEnd, type Source, sourceOf } from '../helpers/staging.js';
import { tempFolder } from '../helpers/temp-folder.js';

/** A memory file system, as a drive other than the one of the temporary folder. */
const OTHER = '/dev/shm';
const hasOther = existsSync(OTHER) && statSync(OTHER).dev !== statSync(tempFolder()).dev;

test('on the same drive the files are used where they lie', async () => {
  const source = sourceOf([0.01]);
  const parent = tempFolder();
  const dir = join(parent, 'new', 'folder');
  const staged = await stageCheckpoint(source, dir);
  expect(staged).toMatchObject({ files: source.files, folder: source.folder, copied: false });
  expect(staged.fileStates.map(({ sizeBytes }) => sizeBytes)).toEqual([statSync(source.files[0] ?? '').size]);
  expect(readdirSync(parent)).toEqual([]); // no folder is made for nothing
});

test('a file in place of the folder', async () => {
  const file = join(tempFolder(), 'file');
  writeFileSync(file, '');
  for (const dir of [file, join(file, 'below')]) {
    const error = await failureOf(stageCheckpoint(sourceOf([0.01]), dir));
    expect(error.code).toBe('WRITE_FAILED');
    expect(error.message).toMatch(/is a file: give a folder/);
  }
});

test('a weight file that is gone', async () => {
  const source = sourceOf([0.01]);
  rmSync(source.files[0] ?? '');
  expect((await failureOf(stageCheckpoint(source, tempFolder()))).code).toBe('NOT_FOUND');
});

describe.skipIf(!hasOther)('on another drive (needs /dev/shm)', () => {
  test('copies once, then uses the copy; progress ends at the total', async () => {
    const source = sourceOf([2.5, 1, 0.001]);
    const dir = tempFolder(OTHER);
    const first = meter();
    const staged = await stageCheckpoint(source, dir, first);
    expect(staged.copied).toBe(true);
    expect(staged.folder).toMatch(/\/zero-inference-[0-9a-f]{16}$/);
    expectCopyOf(source, staged.files);
    const total = source.files.reduce((bytes, file) => bytes + statSync(file).size, 0);
    expect(first.bytes).toEqual({ compare: 0, copy: total });
    expect(first.calls).toEqual([...first.calls].sort((a, b) => a - b));
    expect(readdirSync(staged.folder).sort()).toEqual([
      'manifest.json',
      ...staged.files.map((f) => basename(f)),
    ]);

    const second = meter();
    expect(await stageCheckpoint(source, dir, second)).toEqual({ ...staged, copied: false });
    expect(second.calls).toEqual([]);
  });

  test('mixed drives: one file elsewhere is enough to copy all', async () => {
    const source = sourceOf([0.1, 0.1]);
    const dir = tempFolder(OTHER);
    const onTarget = join(dir, 'blob');
    cpSync(source.files[0] ?? '', onTarget);
    rmSync(source.files[0] ?? '');
    symlinkSync(onTarget, source.files[0] ?? '');
    const staged = await stageCheckpoint(source, dir);
    expect(staged.copied).toBe(true);
    expectCopyOf(source, staged.files);
  });

  test('a touched source is compared and the copy kept; then it counts as unchanged again', async () => {
    const source = sourceOf([1.5, 0.5]);
    const dir = tempFolder(OTHER);
    await stageCheckpoint(source, dir);
    utimesSync(source.files[0] ?? '', 1, 1);
    const touched = meter();
    expect((await stageCheckpoint(source, dir, touched)).copied).toBe(false);
    expect(touched.bytes).toEqual({ compare: statSync(source.files[0] ?? '').size, copy: 0 });
    const again = meter();
    await stageCheckpoint(source, dir, again);
    expect(again.calls).toEqual([]);
  });

  test('a moved checkpoint finds its copy by content', async () => {
    const source = sourceOf([0.5, 0.5]);
    const dir = tempFolder(OTHER);
    const staged = await stageCheckpoint(source, dir);
    const moved = join(tempFolder(), 'moved');
    renameSync(source.folder, moved);
    const files = source.files.map((file) => join(moved, basename(file)));
    expect(await stageCheckpoint({ folder: moved, files }, dir)).toEqual({ ...staged, copied: false });
  });

  test('changed content with the same header is copied again', async () => {
    const source = sourceOf([1.5, 0.5]);
    const dir = tempFolder(OTHER);
    const before = await stageCheckpoint(source, dir);
    const path = source.files[0] ?? '';
    const bytes = readFileSync(path);
    bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1; // not in the sample: the same folder
    writeFileSync(path, bytes);
    const after = await stageCheckpoint(source, dir);
    expect(after).toMatchObject({ files: before.files, folder: before.folder, copied: true });
    expectCopyOf(source, after.files);
  });

  test('models that differ in content only have folders of their own', async () => {
    const dir = tempFolder(OTHER);
    const one = await stageCheckpoint(sourceOf([0.1], 1), dir);
    const two = await stageCheckpoint(sourceOf([0.1], 2), dir);
    expect(one.folder).not.toBe(two.folder);
  });

  test('a copy that was cut or written to is made again', async () => {
    const source = sourceOf([0.5, 0.5]);
    const dir = tempFolder(OTHER);
    const staged = await stageCheckpoint(source, dir);
    truncateSync(staged.files[0] ?? '', 1000);
    appendFileSync(staged.files[1] ?? '', 'x');
    expect((await stageCheckpoint(source, dir)).copied).toBe(true);
    expectCopyOf(source, staged.files);
    rmSync(staged.files[1] ?? '');
    expect((await stageCheckpoint(source, dir)).copied).toBe(true);
    expectCopyOf(source, staged.files);
  });

  test.each([
    '',
    '{',
    '[]',
    '{"format":"other"}',
    '{"format":"zero-inference staging 1","files":[{},1,null]}',
  ])('a manifest that says %j is not trusted', async (text) => {
    const source = sourceOf([0.1]);
    const dir = tempFolder(OTHER);
    const { folder } = await stageCheckpoint(source, dir);
    writeFileSync(join(folder, 'manifest.json'), text);
    const staged = await stageCheckpoint(source, dir);
    expect(staged.copied).toBe(true);
    expectCopyOf(source, staged.files);
  });

  /** Stages until `stopBytes` are done, then aborts. Returns the staging folder. */
  async function abortAfter(source: Source, dir: string, stopBytes: number): Promise<string> {
    const controller = new AbortController();
    const error = await failureOf(
      stageCheckpoint(source, dir, {
        signal: controller.signal,
        onProgress: (done) => done >= stopBytes && controller.abort(),
      }),
    );
    expect(error.code).toBe('INTERRUPTED');
    return join(dir, readdirSync(dir)[0] ?? '');
  }

  test('an aborted copy leaves finished files and a partial one, and goes on from there', async () => {
    const source = sourceOf([1.5, 3.5, 1]);
    const dir = tempFolder(OTHER);
    const firstBytes = statSync(source.files[0] ?? '').size;
    const folder = await abortAfter(source, dir, firstBytes + 2 * CHUNK_BYTES);
    expect(readdirSync(folder).sort()).toEqual([
      'manifest.json',
      'model-0.safetensors',
      'model-1.safetensors.partial',
    ]);
    const inodeOf = (name: string) => statSync(join(folder, name)).ino;
    const [kept, partial] = [inodeOf('model-0.safetensors'), inodeOf('model-1.safetensors.partial')];
    const rest = meter();
    const staged = await stageCheckpoint(source, dir, rest);
    expectCopyOf(source, staged.files);
    expect(inodeOf('model-0.safetensors')).toBe(kept);
    expect(inodeOf('model-1.safetensors')).toBe(partial);
    expect(rest.calls[0]).toBeGreaterThan(firstBytes);
    const manifest = readFileSync(join(folder, 'manifest.json'), 'utf8');
    const fresh = await stageCheckpoint(source, tempFolder(OTHER));
    const shaOf = (text: string) => [...text.matchAll(/"sha256": "(\w+)"/g)].map((match) => match[1]);
    expect(shaOf(manifest)).toEqual(shaOf(readFileSync(join(fresh.folder, 'manifest.json'), 'utf8')));
  });

  test.each<[string, (path: string) => void]>([
    ['cut within a chunk', (path) => truncateSync(path, CHUNK_BYTES + 5)],
    ['empty', (path) => truncateSync(path, 0)],
    ['longer than the source', (path) => truncateSync(path, 5 * CHUNK_BYTES)],
    ['of zeros, as after a power failure', (path) => writeFileSync(path, Buffer.alloc(2 * CHUNK_BYTES))],
  ])('a partial file that is %s is set right', async (_what, damage) => {
    const source = sourceOf([3.5]);
    const dir = tempFolder(OTHER);
    const folder = await abortAfter(source, dir, 2 * CHUNK_BYTES);
    damage(join(folder, 'model-0.safetensors.partial'));
    expectCopyOf(source, (await stageCheckpoint(source, dir)).files);
  });

  test('a source that changes between the attempts is not mixed', async () => {
    const source = sourceOf([3.5]);
    const dir = tempFolder(OTHER);
    await abortAfter(source, dir, 2 * CHUNK_BYTES);
    const path = source.files[0] ?? '';
    const bytes = readFileSync(path);
    bytes.fill(7, CHUNK_BYTES + 100, CHUNK_BYTES + 200);
    writeFileSync(path, bytes);
    expectCopyOf(source, (await stageCheckpoint(source, dir)).files);
  });

  test('a source that changed since its header was read is refused', async () => {
    const source = sourceOf([0.1]);
    const fileStates = source.files.map(stateOfPath);
    const dir = tempFolder(OTHER);
    await stageCheckpoint({ ...source, fileStates }, dir);
    cpSync(source.files[0] ?? '', join(source.folder, 'new'));
    renameSync(join(source.folder, 'new'), source.files[0] ?? '');
    const error = await failureOf(stageCheckpoint({ ...source, fileStates }, dir));
    expect(error.code).toBe('FILE_CHANGED');
    expect(error.message).toMatch(/after its header had been read/);
  });

  test('a source that changes during the copy is refused', async () => {
    const source = sourceOf([2.5]);
    const path = source.files[0] ?? '';
    const onProgress = (done: number) => done === CHUNK_BYTES && utimesSync(path, 1, 1);
    const error = await failureOf(stageCheckpoint(source, tempFolder(OTHER), { onProgress }));
    expect(error.code).toBe('FILE_CHANGED');
    const shrink = (done: number) => done === CHUNK_BYTES && truncateSync(path, CHUNK_BYTES + 1);
    const shrunk = await failureOf(stageCheckpoint(source, tempFolder(OTHER), { onProgress: shrink }));
    expect(shrunk.code).toBe('FILE_CHANGED');
  });

  test('too little space is said before anything is copied', async () => {
    const folder = tempFolder();
    const path = join(folder, 'model.safetensors');
    const huge = 2 ** 40; // a sparse file: takes no space
    writeFileSync(
      path,
      safetensorsBytes(`{"w":{"dtype":"U8","shape":[${huge}],"data_offsets":[0,${huge}]}}`, 0),
    );
    truncateSync(path, statSync(path).size + huge);
    const parent = tempFolder(OTHER);
    const dir = join(parent, 'new', 'folder');
    const error = await failureOf(stageCheckpoint({ folder, files: [path] }, dir));
    expect(error.code).toBe('NO_SPACE');
    expect(error.message).toMatch(
      /has [\d.]+ \w+ free, but copying the weights needs 1.00 TiB: free space, or/,
    );
    expect(readdirSync(parent)).toEqual([]);
  });

  test('two at once: one copies, the other waits and uses the copy', async () => {
    const source = sourceOf([2.5, 1]);
    const dir = tempFolder(OTHER);
    const said: string[] = [];
    const options = { log: (message: string) => void said.push(message) };
    const both = await Promise.all([
      stageCheckpoint(source, dir, options),
      stageCheckpoint(source, dir, options),
    ]);
    expect(both.map(({ copied }) => copied).sort()).toEqual([false, true]);
    expectCopyOf(source, both[0].files);
    expect(said.filter((message) => /is copying the same weights/.test(message))).toHaveLength(1);
  });

  test('a lock left by a killed process is taken over', async () => {
    const source = sourceOf([0.1]);
    const dir = tempFolder(OTHER);
    const { folder } = await stageCheckpoint(source, dir);
    rmSync(join(folder, 'manifest.json'));
    writeFileSync(join(folder, 'lock'), JSON.stringify({ host: hostname(), pid: 1, started: '1' }));
    // What earlier versions left of it, and a crash while the manifest was written.
    for (const name of ['lock.123', 'manifest.json.partial']) writeFileSync(join(folder, name), '');
    const staged = await stageCheckpoint(source, dir);
    expect(staged.copied).toBe(true);
    expect(readdirSync(folder).sort()).toEqual(['manifest.json', 'model-0.safetensors']);
  });

  test('a source that was written to is seen, though its size and time are as before', async () => {
    const source = sourceOf([1.5, 0.5]);
    const dir = tempFolder(OTHER);
    const before = await stageCheckpoint(source, dir);
    keepingTime(source.files[0] ?? '', () => overwriteEnd(source.files[0] ?? ''));
    const after = await stageCheckpoint(source, dir);
    expect(after.copied).toBe(true);
    expect(after.folder).toBe(before.folder);
    expectCopyOf(source, after.files);
  });

  test('a copy that was written to is seen likewise; one that was touched only is compared and kept', async () => {
    const source = sourceOf([1.5, 0.5]);
    const dir = tempFolder(OTHER);
    const { files } = await stageCheckpoint(source, dir);
    keepingTime(files[0] ?? '', () => overwriteEnd(files[0] ?? ''));
    utimesSync(files[1] ?? '', 1, 1);
    const kept = statSync(files[1] ?? '').ino;
    const counted = meter();
    expect((await stageCheckpoint(source, dir, counted)).copied).toBe(true);
    expectCopyOf(source, files);
    expect(statSync(files[1] ?? '').ino).toBe(kept);
    expect(counted.bytes.compare).toBe(statSync(files[0] ?? '').size + statSync(files[1] ?? '').size);
    const again = meter();
    await stageCheckpoint(source, dir, again);
    expect(again.calls).toEqual([]);
  });

  test('a manifest of an earlier version, without times of change, is compared once', async () => {
    const source = sourceOf([0.5]);
    const dir = tempFolder(OTHER);
    const { folder } = await stageCheckpoint(source, dir);
    const path = join(folder, 'manifest.json');
    writeFileSync(path, readFileSync(path, 'utf8').replaceAll(/"ctimeNs": "\d+",?/g, ''));
    writeFileSync(path, readFileSync(path, 'utf8').replaceAll(/,\s*\}/g, '}'));
    const once = meter();
    expect((await stageCheckpoint(source, dir, once)).copied).toBe(false);
    expect(once.bytes.compare).toBe(2 * statSync(source.files[0] ?? '').size);
    const again = meter();
    await stageCheckpoint(source, dir, again);
    expect(again.calls).toEqual([]);
  });

  test('PyTorch files are copied as well', async () => {
    const folder = tempFolder();
    const path = join(folder, 'pytorch_model.bin');
    writeFileSync(path, Buffer.alloc(10_000, 3));
    const staged = await stageCheckpoint({ folder, files: [path] }, tempFolder(OTHER));
    expectCopyOf({ folder, files: [path] }, staged.files);
  });

  test('a drive that refuses writes', async () => {
    const error = await failureOf(stageCheckpoint(sourceOf([0.1]), '/proc/zero-inference'));
    expect(error.code).toBe('WRITE_FAILED');
  });
});
