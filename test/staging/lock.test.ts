// The lock on a folder of weights: one holder at a time, free when its process ends, and nothing left behind.

import { type ChildProcess, fork, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { takeLock } from '../../src/staging/lock.js';
import { failureOf } from '../helpers/staging.js';
import { tempFolder } from '../helpers/temp-folder.js';

const ROUNDS = fileURLToPath(new URL('../../dist/bench/lock-rounds.js', import.meta.url));

const lockPath = () => join(tempFolder(), 'lock');

/** Holds the lock of the folder until it is killed: with `dies`, when it says so. */
async function processThatHolds(folder: string): Promise<ChildProcess> {
  const child = fork(ROUNDS, ['--contender']);
  const said = (word: string) =>
    new Promise<void>((resolve) => {
      child.on('message', (message) => message === word && resolve());
    });
  const ready = said('ready');
  await ready;
  const holds = said('held');
  child.send({ folder, dies: false, holdMs: 3600_000 });
  await holds;
  return child;
}

describe('the lock', () => {
  test('is given back, and can be taken again', async () => {
    const path = lockPath();
    for (let i = 0; i < 2; i++) {
      const unlock = await takeLock(path);
      expect(JSON.parse(readFileSync(path, 'utf8'))).toMatchObject({ pid: process.pid, host: hostname() });
      await unlock();
      expect(existsSync(path)).toBe(false);
    }
  });

  test('many at once in one process: never two holders', async () => {
    const path = lockPath();
    let holders = 0;
    const hold = async () => {
      const unlock = await takeLock(path);
      expect(++holders).toBe(1);
      await new Promise(setImmediate);
      holders--;
      await unlock();
    };
    await Promise.all(Array.from({ length: 8 }, hold));
    expect(existsSync(path)).toBe(false);
  });

  test('six processes, with locks and holders that were killed: never two holders, nothing left', () => {
    const { stdout, status } = spawnSync(process.execPath, [ROUNDS, '--rounds', '15'], { encoding: 'utf8' });
    expect(JSON.parse(stdout)).toEqual({
      rounds: 15,
      processes: 6,
      holders: 90,
      killed: 3,
      two_holders: 0,
      orphans: 0,
    });
    expect(status).toBe(0);
  });

  test('a file that nobody holds is no lock, whatever it says', async () => {
    const host = hostname();
    const texts = [
      JSON.stringify({ host, pid: process.pid, started: '' }),
      '{"host":"elsewhere","pid":1,"started":""}',
      '{}',
      'x',
      '',
    ];
    for (const text of texts) {
      const path = lockPath();
      writeFileSync(path, text);
      const unlock = await takeLock(path);
      expect(JSON.parse(readFileSync(path, 'utf8'))).toMatchObject({ pid: process.pid });
      await unlock();
      expect(readdirSync(join(path, '..'))).toEqual([]);
    }
  });

  test('waiting says who holds it, can be aborted, and ends when the holder is killed', async () => {
    const path = lockPath();
    const holder = await processThatHolds(join(path, '..'));
    const controller = new AbortController();
    const said: string[] = [];
    const onWait = (who: string) => {
      said.push(who);
      controller.abort();
    };
    const error = await failureOf(takeLock(path, { signal: controller.signal, onWait }));
    expect(error.code).toBe('INTERRUPTED');
    expect(said).toEqual([`process ${holder.pid} on this machine`]);
    expect(existsSync(path)).toBe(true);
    const waiting = takeLock(path, { onWait: () => holder.kill('SIGKILL') });
    await (await waiting)();
    expect(existsSync(path)).toBe(false);
  });

  test('a lock whose file somebody removed is not taken for the one of its successor', async () => {
    const path = lockPath();
    const first = await takeLock(path);
    rmSync(path);
    const second = await takeLock(path);
    const { ino } = statSync(path);
    await first();
    expect(statSync(path).ino).toBe(ino);
    await second();
    expect(existsSync(path)).toBe(false);
  });

  test('a folder, a link or a pipe in its place, and a folder that is absent', async () => {
    const [folder, link, pipe] = [lockPath(), lockPath(), lockPath()];
    mkdirSync(folder);
    writeFileSync(`${link}.target`, 'mine');
    symlinkSync(`${link}.target`, link);
    spawnSync('mkfifo', [pipe]);
    for (const path of [folder, link, pipe, join(lockPath(), 'no', 'lock')]) {
      const error = await failureOf(takeLock(path));
      expect(error.code).toBe('WRITE_FAILED');
      expect(error.message).toContain(path);
    }
    expect(readFileSync(`${link}.target`, 'utf8')).toBe('mine');
  });
});
