// Who has files open or mapped, as the system tells: weights are read without a lock, and must not go under a run.

import { readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { isLocked } from '../staging/lock.js';
import type { Removal } from './stored.js';

/** What was written to so lately may be written to by another machine, whose processes are not seen. */
const QUIET_MS = 60_000;

/** Why it is not to be removed now; undefined where nobody seems to use it. */
export async function inUse({ files, locks }: Removal): Promise<string | undefined> {
  for (const lock of locks) if (await isLocked(lock)) return `${lock} is held by a process that writes there`;
  const holders = holdersOf(files.filter(({ isLink }) => !isLink).map(({ path }) => path));
  const [first] = holders;
  if (first) {
    const others = holders.length > 1 ? ` and ${holders.length - 1} more` : '';
    return `process ${first.process}${others} has ${first.path} open`;
  }
  const now = Date.now();
  const fresh = files.find(
    ({ path, writtenMs }) => /\.(incomplete|partial)/.test(path) && now - writtenMs < QUIET_MS,
  );
  return (
    fresh && `${fresh.path} was written to ${Math.max(0, Math.round((now - fresh.writtenMs) / 1000))} s ago`
  );
}

interface Holder {
  readonly process: number;
  readonly path: string;
}

/** One file per process. Processes of other users are seen by root alone. */
function holdersOf(paths: readonly string[]): Holder[] {
  const wanted = new Map(paths.map((path) => [realPath(path), path]));
  if (wanted.size === 0) return [];
  const holders: Holder[] = [];
  for (const name of namesIn('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    const held = openPaths(name).find((path) => wanted.has(path));
    if (held !== undefined) holders.push({ process: Number(name), path: wanted.get(held) ?? held });
  }
  return holders;
}

/** Open files, and those that are only mapped. */
function openPaths(name: string): string[] {
  const folder = join('/proc', name);
  const opened = namesIn(join(folder, 'fd')).map(
    (fd) => quiet(() => readlinkSync(join(folder, 'fd', fd))) ?? '',
  );
  const maps = quiet(() => readFileSync(join(folder, 'maps'), 'utf8')) ?? '';
  const mapped = [...maps.matchAll(/ (\/[^\n]*)$/gm)].map(([, path = '']) => path);
  return [...opened, ...mapped];
}

function namesIn(path: string): string[] {
  return quiet(() => readdirSync(path)) ?? [];
}

function realPath(path: string): string {
  return quiet(() => realpathSync(path)) ?? path;
}

/** A process may have ended, or be another user's: of that nothing is to be learnt. */
function quiet<T>(ask: () => T): T | undefined {
  try {
    return ask();
  } catch {
    return undefined;
  }
}
