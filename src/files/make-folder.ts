// Makes a folder and those above it, so that what was made for nothing can go again.

import { mkdir, rmdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { ifThere } from './if-there.js';
import { reason, systemCode } from './json-file.js';

/** The folder at `path` or, as far as it is to be made, the one that it will be made in. */
export async function nearestFolder(path: string): Promise<string> {
  const entry = await ifThere(path, stat(path));
  if (entry?.isDirectory()) return path;
  if (entry) throw new OperatingError('WRITE_FAILED', `${path} is a file: give a folder`);
  return dirname(path) === path ? path : nearestFolder(dirname(path));
}

/**
 * Makes the folder and its parents, not by mkdir's `recursive`, which never returns where a file system says ENOENT.
 * Returns the folders that it has made, outermost first.
 */
export async function makeFolder(path: string): Promise<string[]> {
  const nearest = await nearestFolder(path);
  if (nearest === path) return [];
  const made = await makeFolder(dirname(path));
  try {
    await mkdir(path);
    return [...made, path];
  } catch (error) {
    await removeEmpty(made);
    const rival = systemCode(error) === 'EEXIST' && (await stat(path).catch(() => undefined))?.isDirectory();
    if (rival) return []; // made by another process just now
    throw new OperatingError('WRITE_FAILED', `the folder ${path} cannot be made: ${reason(error)}`, {
      cause: error,
    });
  }
}

/** Removes the folders that nothing came into after all. */
export async function removeEmpty(folders: readonly string[]): Promise<void> {
  for (const folder of [...folders].reverse()) await rmdir(folder).catch(() => undefined);
}
