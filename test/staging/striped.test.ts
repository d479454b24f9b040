// Weights striped over drives: in proportion to rates, resumable, and set right by as little copying as will do.

import { existsSync, readdirSync, readFileSync, rmSync, statSync, truncateSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { present } from '../../offload/errors.js';
import { type StripedFile, stripeRuns } from '../../offload/model/stripes.js';
import { CHUNK_BYTES } from '../../src/staging/copy.js';
import type { StagedWeights } from '../../src/staging/staging.js';
import { checkMounted, type StripedDrive, stageStriped } from '../../src/staging/striped.js';
import { copiesIn } from '../../src/stored/copies.js';
import { learnRates, placeWeights } from '../../src/stored/weights-on-drives.js';
import { failureOf, meter, overwriteEnd, type Source, sourceOf } from '../helpers/staging.js';
import { tempFolder } from '../helpers/temp-folder.js';

const OTHER = '/dev/shm';
const hasOther = existsSync(OTHER) && statSync(OTHER).dev !== statSync(tempFolder()).dev;
const env = { XDG_CACHE_HOME: tempFolder() };

/** Folders take drives' place: what tells drives apart is tested below. */
function drivesOf(...rates: number[]): StripedDrive[] {
  return rates.map((bytesPerSecond) => ({ folder: tempFolder(OTHER), bytesPerSecond }));
}

function contentOf(file: StripedFile, sizeBytes: number): Buffer {
  const parts = file.parts.map(({ path }) => readFileSync(path));
  const whole = Buffer.alloc(sizeBytes);
  for (const { drive, partOffset, offsetBytes, sizeBytes: size } of stripeRuns(file, 0, sizeBytes)) {
    present(parts[drive], 'part').copy(whole, offsetBytes, partOffset, partOffset + size);
  }
  return whole;
}

function expectStripesOf(source: Source, { files }: StagedWeights): void {
  expect(files).toHaveLength(source.files.length);
  for (const [i, file] of files.entries()) {
    const expected = readFileSync(present(source.files[i], 'source'));
    expect(contentOf(file as StripedFile, expected.length).equals(expected)).toBe(true);
  }
}

const folderOn = (drive: StripedDrive | undefined): string => {
  const { folder } = present(drive, 'drive');
  return join(folder, present(readdirSync(folder)[0], 'folder of parts'));
};
const partOn = (drive: StripedDrive | undefined, index = 0): string =>
  join(folderOn(drive), `model-${index}.safetensors.stripe`);
const inodeOf = (path: string): number => statSync(path).ino;

describe.skipIf(!hasOther)('on other drives than the checkpoint (needs /dev/shm)', () => {
  test('once, in proportion to what they yield, and found again in any order', async () => {
    const source = sourceOf([2.5, 0.001]);
    const drives = drivesOf(2e9, 1e9);
    const first = await stageStriped(source, drives);
    expect(first.copied).toBe(true);
    expectStripesOf(source, first);
    const [fast, slow] = drives.map((drive) => statSync(partOn(drive)).size);
    expect((fast ?? 0) / (slow ?? 1)).toBeCloseTo(2, 1);
    expect(readdirSync(folderOn(drives[0])).sort()).toEqual([
      'manifest.json',
      'model-0.safetensors.stripe',
      'model-1.safetensors.stripe',
    ]);
    const again = await stageStriped(source, [...drives].reverse());
    expect(again).toEqual({ ...first, copied: false });
  });

  test('a part that is gone, cut or another copy is set right, and the others stay where they can', async () => {
    const source = sourceOf([2.2]);
    const drives = drivesOf(1e9, 1e9);
    await stageStriped(source, drives);
    const kept = inodeOf(partOn(drives[0]));
    for (const damage of [
      () => rmSync(partOn(drives[1])),
      () => truncateSync(partOn(drives[1]), 5),
      () => rmSync(folderOn(drives[1]), { recursive: true }),
    ]) {
      damage();
      const mended = await stageStriped(source, drives);
      expect(mended.copied).toBe(true);
      expectStripesOf(source, mended);
      expect(inodeOf(partOn(drives[0]))).toBe(kept);
    }
    overwriteEnd(partOn(drives[1]));
    expectStripesOf(source, await stageStriped(source, drives));
  });

  test('a copy that was stopped goes on, on every drive', async () => {
    const source = sourceOf([1, 3.5]);
    const drives = drivesOf(1e9, 2e9);
    const controller = new AbortController();
    const stopBytes = 3 * CHUNK_BYTES;
    const stopped = stageStriped(source, drives, {
      signal: controller.signal,
      onProgress: (done) => done >= stopBytes && controller.abort(),
    });
    expect((await failureOf(stopped)).code).toBe('INTERRUPTED');
    const partials = drives.map((drive) => `${partOn(drive, 1)}.partial`);
    const before = partials.map(inodeOf);
    // As a crash may leave it: one drive has less of it than the other.
    truncateSync(present(partials[0], 'partial'), 100);
    expectStripesOf(source, await stageStriped(source, drives));
    expect(drives.map((drive) => inodeOf(partOn(drive, 1)))).toEqual(before);
  });

  test('other rates, or one drive more, stripe anew, and small differences do not', async () => {
    const source = sourceOf([1.2]);
    const drives = drivesOf(1e9, 1e9);
    await stageStriped(source, drives);
    const withRates = (...rates: number[]) =>
      drives.map(({ folder }, i) => ({ folder, bytesPerSecond: rates[i] ?? 0 }));
    expect((await stageStriped(source, withRates(1e9, 1.2e9))).copied).toBe(false);
    const lines: string[] = [];
    const anew = await stageStriped(source, withRates(1e9, 3e9), { log: (line) => lines.push(line) });
    expect(anew.copied).toBe(true);
    expect(lines.join('\n')).toMatch(/other rates .* striped anew/);
    expectStripesOf(source, anew);
    const three = [...withRates(1e9, 3e9), ...drivesOf(1e9)];
    const more = await stageStriped(source, three);
    expect(more.files.map((file) => (file as StripedFile).parts.length)).toEqual([3]);
    expectStripesOf(source, more);
  });

  test('what is touched is compared, and a changed source copied', async () => {
    const source = sourceOf([1.5]);
    const drives = drivesOf(1e9, 1e9);
    await stageStriped(source, drives);
    const path = present(source.files[0], 'source');
    const bytes = readFileSync(path);
    rmSync(path);
    const { writeFileSync } = await import('node:fs');
    writeFileSync(path, bytes);
    const counts = meter();
    expect((await stageStriped(source, drives, counts)).copied).toBe(false);
    expect(counts.bytes).toEqual({ compare: bytes.length, copy: 0 });
    bytes.fill(9, bytes.length - 50);
    writeFileSync(path, bytes);
    const copied = await stageStriped(source, drives);
    expect(copied.copied).toBe(true);
    expectStripesOf(source, copied);
  });

  test('two at once: one copies, the other waits for it', async () => {
    const source = sourceOf([2]);
    const drives = drivesOf(1e9, 1e9);
    const both = await Promise.all([
      stageStriped(source, drives),
      stageStriped(source, [...drives].reverse()),
    ]);
    expect(both.filter(({ copied }) => copied)).toHaveLength(1);
    for (const staged of both) expectStripesOf(source, staged);
  });

  test('a drive that is not mounted is missed, before anything is written to what is there in its place', async () => {
    const source = sourceOf([0.5]);
    const drives = drivesOf(1e9, 1e9);
    await stageStriped(source, drives);
    const folders = drives.map(({ folder }) => folder);
    await checkMounted(source, folders);
    const [first, second] = drives;
    rmSync(folderOn(second), { recursive: true });
    await checkMounted(source, folders); // the same file system: it was removed
    const record = join(folderOn(first), 'manifest.json');
    const { writeFileSync } = await import('node:fs');
    writeFileSync(
      record,
      readFileSync(record, 'utf8').replaceAll(/("file_system": )"[^"]*"/g, '$1"1 2 3 4"'),
    );
    const error = await failureOf(checkMounted(source, folders));
    expect(error.code).toBe('NOT_FOUND');
    expect(error.message).toContain(`${second?.folder} has no part of the weights`);
  });

  test('are listed as copies, part by part', async () => {
    const source = sourceOf([0.5]);
    const drives = drivesOf(1e9, 1e9);
    await stageStriped(source, drives);
    const [listed] = await copiesIn(present(drives[1], 'drive').folder);
    expect(listed?.about).toMatch(/^of .*, the part of drive 2 of 2$/);
    expect(listed?.incompleteBytes).toBe(0);
  });
});

describe.skipIf(!hasOther)('the drives that are given (needs /dev/shm)', () => {
  const wish = (folder: string, bytesPerSecond?: number) => ({ folder, bytesPerSecond });

  test('one that holds the checkpoint is read in place, and the other has its shares alone', async () => {
    const source = sourceOf([1.5]);
    const staged = await placeWeights(source, [wish(source.folder, 1e9), wish(tempFolder(OTHER), 1e9)], {
      env,
    });
    const [file] = staged.files as StripedFile[];
    expect(file?.parts.map(({ isWhole }) => isWhole)).toEqual([true, false]);
    expect(file?.parts[0]?.path).toBe(source.files[0]);
    expectStripesOf(source, staged);
    const half = statSync(present(source.files[0], 'source')).size / 2;
    expect(Math.abs(statSync(present(file?.parts[1], 'part').path).size - half)).toBeLessThan(
      CHUNK_BYTES / 8,
    );
    const again = await placeWeights(source, [wish(source.folder, 1e9), wish(dirnameOf(staged), 1e9)], {
      env,
    });
    expect(again.copied).toBe(false);
  });

  test('one twice, or two folders of one drive, are used once, and it is said', async () => {
    const source = sourceOf([0.5]);
    const [one, other] = [tempFolder(OTHER), tempFolder(OTHER)];
    const said: string[] = [];
    const staged = await placeWeights(source, [wish(one), wish(one), wish(other)], {
      env,
      warn: (line) => said.push(line),
    });
    expect(staged.drives).toBeUndefined();
    expect(staged.files.map((file) => typeof file)).toEqual(['string']);
    expect(said).toEqual([
      expect.stringContaining('given twice, which gains nothing'),
      expect.stringContaining('are on one drive, so that striping over both gains nothing'),
    ]);
    expect(readdirSync(other)).toEqual([]);
  });

  test('what was measured is remembered, and what a run teaches takes its place', async () => {
    const source = sourceOf([0.5]);
    const wishes = [wish(tempFolder()), wish(tempFolder(OTHER))];
    const lines: string[] = [];
    const options = { env, log: (line: string) => lines.push(line) };
    const { drives = [] } = await placeWeights(source, wishes, options);
    expect(lines.filter((line) => line.includes('measured now and remembered'))).toHaveLength(2);
    lines.length = 0;
    expect((await placeWeights(source, wishes, options)).copied).toBe(false);
    expect(lines.filter((line) => line.includes('measured'))).toEqual([]);
    const shares = drives.map(({ shareBytes }) => shareBytes);
    const period = shares.reduce((sum, bytes) => sum + bytes, 0);
    // Both end together: nothing is to be learnt. Then one takes ten times as long.
    const figures = (factor: number) =>
      shares.map((bytes, i) => ({
        bytes: 2 ** 30 * (bytes / period) * 8,
        busyMs: i === 0 ? 1000 * factor : 1000,
      }));
    expect(await learnRates(drives, figures(1), env)).toBeUndefined();
    expect(await learnRates(drives, figures(10), env)).toMatch(/the next start stripes them anew/);
    expect((await placeWeights(source, wishes, options)).copied).toBe(true);
  });
});

function dirnameOf({ folder }: StagedWeights): string {
  return folder.slice(0, -basename(folder).length - 1);
}
