// Where copies, packed and random weights lie: the cache folder, and folders that were given for them, which are noted.

import { appendFile, mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { readSmallFile } from '../files/regular-file.js';

export type Variables = Readonly<Record<string, string | undefined>>;

export function ownCache({ XDG_CACHE_HOME }: Variables): string {
  return join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'zero-inference');
}

/** Where random weights are made unless another folder is given. */
export function dummyFolder(env: Variables): string {
  return join(ownCache(env), 'dummy');
}

/** Where checkpoints are packed at first use. */
export function packedFolder(env: Variables): string {
  return join(ownCache(env), 'packed');
}

const MOST_NOTES_BYTES = 1 << 20;

function notesPath(env: Variables): string {
  return join(ownCache(env), 'places');
}

/** Notes that weights were put into a folder. Where it cannot be noted, `cache --folder` still finds them. */
export async function notePlace(folder: string, env: Variables): Promise<void> {
  const path = resolve(folder);
  try {
    if ((await notedPlaces(env)).includes(path)) return;
    await mkdir(dirname(notesPath(env)), { recursive: true });
    // A line at the end, in one step, beside those that other processes add.
    await appendFile(notesPath(env), `${JSON.stringify(path)}\n`);
  } catch {
    // said above
  }
}

/** What is no line of ours says nothing. */
export async function notedPlaces(env: Variables): Promise<string[]> {
  const bytes = await readSmallFile(notesPath(env), MOST_NOTES_BYTES, 'BAD_INPUT');
  const lines = bytes?.toString('utf8').split('\n') ?? [];
  return [...new Set(lines.flatMap(pathOf))];
}

function pathOf(line: string): string[] {
  try {
    const path: unknown = JSON.parse(line);
    return typeof path === 'string' && path.startsWith('/') ? [path] : [];
  } catch {
    return [];
  }
}
