// What is removed is what was named: blobs of other revisions, what links lead to, and what is in use stay.

import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { takeLock } from '../../src/staging/lock.js';
import { fileState, sourceState, writeManifest } from '../../src/staging/manifest.js';
import { copiesIn, copyRemoval, dummiesIn } from '../../src/stored/copies.js';
import { downloadRemoval, downloadsIn } from '../../src/stored/downloads.js';
import { inUse } from '../../src/stored/in-use.js';
import { dummyFolder, notedPlaces, notePlace } from '../../src/stored/places.js';
import { carryOut, type Removal, type Stored } from '../../src/stored/stored.js';
import { COMMITS, fillCache } from '../helpers/filled-cache.js';
import { tempFolder } from '../helpers/temp-folder.js';

const NEVER = new AbortController().signal;
const LONG_AGO = new Date('2020-01-01');

function write(path: string, bytes: number): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, Buffer.alloc(bytes));
  utimesSync(path, LONG_AGO, LONG_AGO);
}

async function only(found: Promise<Stored[]>): Promise<Stored> {
  const [first, second] = await found;
  if (!first || second) throw new Error('not one');
  return first;
}

const remove = (removal: Removal) => carryOut(removal, NEVER);

describe('downloads', () => {
  it('are listed with their revisions and what is half written', async () => {
    const { cache, model } = fillCache(tempFolder());
    expect(await downloadsIn(cache)).toEqual([
      {
        kind: 'download',
        name: 'org/name',
        path: model,
        // Blobs of 100, 20 and 3 bytes, 40 half written, and refs.
        sizeBytes: 163 + 2 * 40,
        incompleteBytes: 40,
        usedAt: expect.any(Date),
        about: `main (${COMMITS[0].slice(0, 8)}), v1 (${COMMITS[1].slice(0, 8)})`,
        revisions: [
          { commit: COMMITS[0], refs: ['main'], sizeBytes: 120, path: join(model, 'snapshots', COMMITS[0]) },
          { commit: COMMITS[1], refs: ['v1'], sizeBytes: 103, path: join(model, 'snapshots', COMMITS[1]) },
        ],
      },
    ]);
    expect(await downloadsIn(join(cache, 'nowhere'))).toEqual([]);
  });

  it.each(['main', COMMITS[0], COMMITS[0].slice(0, 7)])(
    'lose one revision, and blobs that no other has: %s',
    async (what) => {
      const { cache, model, outside } = fillCache(tempFolder());
      expect(await remove(await downloadRemoval(await only(downloadsIn(cache)), what))).toEqual([]);
      expect(readdirSync(join(model, 'blobs')).sort()).toEqual([
        'half.incomplete',
        'own-of-second',
        'shared',
      ]);
      expect(readdirSync(join(model, 'snapshots'))).toEqual([COMMITS[1]]);
      expect(readdirSync(join(model, 'refs'))).toEqual(['v1']);
      expect(readdirSync(join(model, '.no_exist'))).toEqual([]);
      expect(readFileSync(join(model, 'snapshots', COMMITS[1], 'weights'))).toHaveLength(100);
      expect(readFileSync(outside, 'utf8')).toBe('precious');
    },
  );

  it('lose what is half written, or all of it, and nothing that links lead to', async () => {
    const { cache, model, outside } = fillCache(tempFolder());
    await remove(await downloadRemoval(await only(downloadsIn(cache)), 'incomplete'));
    expect(readdirSync(join(model, 'blobs')).sort()).toEqual(['own-of-first', 'own-of-second', 'shared']);
    const all = await downloadRemoval(await only(downloadsIn(cache)), undefined);
    // A snapshot never has a link whose blob is gone.
    const places = all.files.map(({ path }) => path.includes('/blobs/'));
    expect(places.lastIndexOf(false)).toBeLessThan(places.indexOf(true));
    expect(await remove(all)).toEqual([]);
    expect(existsSync(model)).toBe(false);
    expect(existsSync(cache)).toBe(true);
    expect(readFileSync(outside, 'utf8')).toBe('precious');
  });

  it('are listed though one of them cannot be looked into', async () => {
    const { cache } = fillCache(tempFolder());
    const other = join(cache, 'models--other--model');
    mkdirSync(other);
    symlinkSync('snapshots', join(other, 'snapshots'));
    const [first, second] = await downloadsIn(cache);
    expect(first).toMatchObject({ name: 'org/name', sizeBytes: 243 });
    expect(second).toMatchObject({
      name: 'other/model',
      sizeBytes: 0,
      about: 'cannot be looked into',
    });
    await expect(downloadRemoval(second as Stored, undefined)).rejects.toThrow(/cannot be looked at/);
  });

  it('are listed, and removed again, while somebody else removes them', async () => {
    const { cache, model } = fillCache(tempFolder());
    for (let file = 0; file < 300; file++) {
      symlinkSync('../../blobs/shared', join(model, 'snapshots', COMMITS[0], `file${file}`));
    }
    const entry = await only(downloadsIn(cache));
    const removal = await downloadRemoval(entry, undefined);
    let isGone = false;
    const gone = remove(removal).finally(() => {
      isGone = true;
    });
    while (!isGone) await downloadsIn(cache);
    await gone;
    expect((await downloadRemoval(entry, undefined)).files).toEqual([]);
    expect(await remove(removal)).toEqual([]);
  });

  it('are not followed where a model is a link, and unknown revisions are named', async () => {
    const { cache, model } = fillCache(tempFolder());
    const entry = await only(downloadsIn(cache));
    const other = tempFolder();
    symlinkSync(model, join(other, 'models--org--name'));
    expect(await downloadsIn(other)).toEqual([]);
    const linked = { ...entry, path: join(other, 'models--org--name') };
    await expect(downloadRemoval(linked, undefined)).rejects.toThrow(/is a link to somewhere else/);
    await expect(downloadRemoval(entry, 'v2')).rejects.toThrow(/org\/name has no revision 'v2': give one of/);
    // Too short to be meant.
    await expect(downloadRemoval(entry, COMMITS[0].slice(0, 3))).rejects.toThrow(/no revision/);
  });
});

describe('copies and random weights', () => {
  const COPY = 'zero-inference-0123456789abcdef';

  async function copyIn(place: string): Promise<string> {
    const folder = join(place, COPY);
    write(join(place, 'source', 'model.safetensors'), 50);
    write(join(folder, 'model.safetensors'), 50);
    write(join(folder, 'other.safetensors.partial'), 7);
    const source = await sourceState(join(place, 'source', 'model.safetensors'));
    const { mtimeNs, ctimeNs } = await fileState(join(folder, 'model.safetensors'));
    await writeManifest(folder, [{ name: 'model.safetensors', sha256: '', mtimeNs, ctimeNs, source }]);
    return folder;
  }

  it('are known by their names and records, and what others have put there stays', async () => {
    const place = tempFolder();
    const folder = await copyIn(place);
    write(join(place, 'zero-inference-of-mine', 'x'), 1);
    write(join(place, 'tiny-float16-01234567', 'model.safetensors'), 9);
    write(join(place, 'tiny-float16-01234567', 'notes.txt'), 1);
    write(join(place, 'tiny-float16-89abcdef.partial', 'model.safetensors'), 5);
    write(join(place, 'named', 'zero-inference-dummy.json'), 2);
    const copy = await only(copiesIn(place));
    expect(copy).toMatchObject({
      kind: 'copy',
      name: COPY,
      incompleteBytes: 7,
      about: `of ${join(place, 'source')}`,
    });
    const dummies = await dummiesIn(place);
    expect(dummies.map(({ name, incompleteBytes }) => [name, incompleteBytes])).toEqual([
      ['named', 0],
      ['tiny-float16-01234567', 0],
      ['tiny-float16-89abcdef.partial', 5],
    ]);
    expect(await remove(await copyRemoval(copy))).toEqual([]);
    expect(existsSync(folder)).toBe(false);
    const kept: string[] = [];
    for (const dummy of dummies) kept.push(...(await remove(await copyRemoval(dummy))));
    expect(kept).toEqual([join(place, 'tiny-float16-01234567')]);
    expect(readdirSync(join(place, 'tiny-float16-01234567'))).toEqual(['notes.txt']);
    expect(readdirSync(place).sort()).toEqual(['source', 'tiny-float16-01234567', 'zero-inference-of-mine']);
  });

  it('are not removed while somebody writes or reads them', async () => {
    const place = tempFolder();
    const folder = await copyIn(place);
    const removal = await copyRemoval(await only(copiesIn(place)));
    expect(await inUse(removal)).toBeUndefined();
    const unlock = await takeLock(join(folder, 'lock'));
    expect(await inUse(removal)).toMatch(/lock is held by a process that writes there/);
    await unlock();
    const descriptor = openSync(join(folder, 'model.safetensors'), 'r');
    const reader = spawn('sleep', ['60'], { stdio: [descriptor, 'ignore', 'ignore'] });
    closeSync(descriptor);
    try {
      expect(await inUse(removal)).toBe(
        `process ${reader.pid} has ${join(folder, 'model.safetensors')} open`,
      );
    } finally {
      reader.kill('SIGKILL');
    }
  });

  it('nor what was written to a moment ago, which another machine may do', async () => {
    const { cache, model } = fillCache(tempFolder());
    const half = join(model, 'blobs', 'half.incomplete');
    const removal = async () => inUse(await downloadRemoval(await only(downloadsIn(cache)), undefined));
    expect(await removal()).toBeUndefined();
    writeFileSync(half, 'more');
    expect(await removal()).toMatch(/half\.incomplete was written to \d s ago/);
  });
});

it('places are noted once, and nothing else is read of the notes', async () => {
  const env = { XDG_CACHE_HOME: tempFolder() };
  expect(await notedPlaces(env)).toEqual([]);
  await Promise.all([notePlace('/a b\n', env), notePlace('/c', env)]);
  await notePlace('/c', env);
  const notes = join(dirname(dummyFolder(env)), 'places');
  writeFileSync(notes, `${readFileSync(notes, 'utf8')}{}\nrelative\n"relative"\n"/torn`);
  expect((await notedPlaces(env)).sort()).toEqual(['/a b\n', '/c']);
});
