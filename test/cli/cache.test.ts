// `cache` lists what there is and removes nothing that was not named and agreed to.

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { fillCache } from '../helpers/filled-cache.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';
import { KEYS, openTerminal } from '../helpers/terminal.js';

const newFolder = sharedFolder();

function setting() {
  const folder = newFolder();
  const filled = fillCache(folder);
  const env = { HF_HUB_CACHE: filled.cache, XDG_CACHE_HOME: join(folder, 'xdg') };
  return { ...filled, env, cacheCommand: (...words: string[]) => runCli(['cache', ...words], { env }) };
}

describe.concurrent('cache', () => {
  it('lists as text and as JSON', async () => {
    const { cacheCommand, model } = setting();
    // Listing is no use of what is listed.
    await cacheCommand();
    const text = await cacheCommand();
    expect(text.errors).toEqual([]);
    expect(text.stdout).toMatch(
      /Models of the hub\n {2}org\/name +243 B +used 2020-01-01 +main \(a1a1a1a1\), v1 .*40 B half written/,
    );
    const { entries, total_bytes } = JSON.parse((await cacheCommand('list', '--json')).stdout);
    expect(total_bytes).toBe(243);
    expect(entries).toMatchObject([
      { kind: 'download', name: 'org/name', path: model, size_bytes: 243, incomplete_bytes: 40 },
    ]);
    expect(entries[0].used_at).toBe('2020-01-01T00:00:00.000Z');
    expect(entries[0].revisions[0]).toMatchObject({ refs: ['main'], size_bytes: 120 });
  });

  it('removes what is named, after a word for it', async () => {
    const { cacheCommand, model, outside } = setting();
    const dry = await cacheCommand('remove', 'org/name@v1', '--dry_run');
    expect(dry.stdout).toMatch(/^org\/name@v1: 43 B in 4 files of /);
    const unasked = await cacheCommand('remove', 'org/name@v1');
    expect(unasked.status).toBe(2);
    expect(unasked.errors).toEqual([expect.stringMatching(/nothing is removed without --yes/)]);
    expect(existsSync(join(model, 'blobs/own-of-second'))).toBe(true);
    const done = await cacheCommand('remove', 'org/name@v1', 'org/name@incomplete', '--yes', '--json');
    expect(JSON.parse(done.stdout)).toMatchObject({
      removed: [
        { name: 'org/name@v1', freed_bytes: 43 },
        { name: 'org/name@incomplete', freed_bytes: 40 },
      ],
      freed_bytes: 83,
      dry_run: false,
    });
    expect(existsSync(join(model, 'blobs/own-of-second'))).toBe(false);
    expect(existsSync(join(model, 'blobs/shared'))).toBe(true);
    const all = await cacheCommand('remove', model, '--yes');
    expect(all.errors).toEqual([]);
    expect(existsSync(model)).toBe(false);
    expect(readFileSync(outside, 'utf8')).toBe('precious');
    expect((await cacheCommand()).stdout).toMatch(/nothing is kept/);
  });

  it.each<[string[], number, RegExp]>([
    [
      ['remove', 'org/nam', '--yes'],
      3,
      /nothing that is kept is called 'org\/nam': did you mean org\/name\?/,
    ],
    [['remove', 'org/name', 'other/model', '--yes'], 3, /called 'other\/model'/],
    [['remove', 'org/name@v7', '--yes'], 3, /org\/name has no revision 'v7'/],
    [['remove', '--yes'], 2, /cache remove needs names/],
    [['remove', '..', '--yes'], 3, /called '\.\.'/],
    [['empty'], 2, /cache can do no 'empty': give one of list, remove/],
    [['list', 'org/name'], 2, /write cache remove org\/name to remove it/],
    [['list', '--yes'], 2, /--yes is for cache remove/],
    [['--folder', '/nowhere'], 3, /--folder: there is no folder '\/nowhere'/],
  ])('%j is refused, and nothing goes', async (words, status, sentence) => {
    const { cacheCommand, model } = setting();
    const result = await cacheCommand(...words);
    expect(result.errors).toEqual([expect.stringMatching(sentence)]);
    expect(result.status).toBe(status);
    expect(existsSync(join(model, 'blobs/shared'))).toBe(true);
  });

  it('finds random weights where they were made', async () => {
    const { cacheCommand, env } = setting();
    const folder = newFolder();
    const { dtype: _, ...config } = JSON.parse(
      readFileSync(join(modelFolder('llama'), 'config.json'), 'utf8'),
    );
    const shape = join(folder, 'tiny.json');
    writeFileSync(shape, JSON.stringify(config));
    const words = ['-m', shape, '--dummy_weights', join(folder, 'made'), '-n1', '--dtype', 'float16'];
    expect((await runCli(words, { env })).errors).toEqual([]);
    const { entries } = JSON.parse((await cacheCommand('--json')).stdout);
    expect(entries).toMatchObject([{ kind: 'download' }, { kind: 'dummy', about: 'random weights' }]);
    expect((await cacheCommand('remove', entries[1].name, '--yes')).errors).toEqual([]);
    expect(existsSync(entries[1].path)).toBe(false);
  });
});

it('asks in a terminal, and takes silence for no', async () => {
  const { cache, model } = setting();
  const ask = async (...keys: string[]) => {
    const terminal = openTerminal(['cache', 'remove', 'org/name'], newFolder(), { HF_HUB_CACHE: cache });
    await terminal.until(/Remove 243 B for good\? \[y\/N\] $/);
    terminal.send(...keys);
    const said = await terminal.until(/removed/);
    expect(await terminal.ended).toBe(0);
    return said;
  };
  expect(await ask(KEYS.enter)).toMatch(/nothing was removed/);
  expect(await ask(KEYS.ctrlD)).toMatch(/nothing was removed/);
  const leaving = openTerminal(['cache', 'remove', 'org/name'], newFolder(), { HF_HUB_CACHE: cache });
  await leaving.until(/y\/N/);
  leaving.hangUp();
  expect(await leaving.ended).toBe(130);
  expect(existsSync(join(model, 'blobs/shared'))).toBe(true);
  await ask('y', KEYS.enter);
  expect(existsSync(model)).toBe(false);
});
