// The hub's local cache, laid out as Python's huggingface_hub does, so that both find what either downloaded:
// `models--org--name/` with `blobs/<etag>`, `snapshots/<commit>/<file>` linking to them, and `refs/<revision>`.

import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, readlink, rename, stat, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { isLeftOut } from '../checkpoint/text-part.js';
import { findWeights } from '../checkpoint/weight-files.js';
import { ifThere } from '../files/if-there.js';
import { readOptionalJsonObject, systemCode } from '../files/json-file.js';
import { writeFailure } from '../staging/manifest.js';

const COMMIT = /^[0-9a-f]{40}$/;

export class ModelCache {
  readonly folder: string;

  constructor(cacheFolder: string, id: string) {
    this.folder = join(cacheFolder, `models--${id.replaceAll('/', '--')}`);
  }

  blobPath(etag: string): string {
    return join(this.folder, 'blobs', etag);
  }

  snapshotFolder(commit: string): string {
    return join(this.folder, 'snapshots', commit);
  }

  /** The snapshot of a branch, tag or commit as it was when it was last downloaded; undefined when it never was. */
  async find(revision: string): Promise<string | undefined> {
    const commit = COMMIT.test(revision) ? revision : await this.#readRef(revision);
    if (commit === undefined) return undefined;
    const folder = this.snapshotFolder(commit);
    const found = await ifThere(folder, stat(folder));
    return found?.isDirectory() ? folder : undefined;
  }

  /** Commits of which some files are there. */
  async commits(): Promise<string[]> {
    const path = join(this.folder, 'snapshots');
    const names = (await ifThere(path, readdir(path))) ?? [];
    return names.filter((name) => COMMIT.test(name)).sort();
  }

  async #readRef(revision: string): Promise<string | undefined> {
    const path = join(this.folder, 'refs', revision);
    const commit = ((await ifThere(path, readFile(path, 'utf8'))) ?? '').trim();
    return /^[\w-]+$/.test(commit) ? commit : undefined;
  }

  async writeRef(revision: string, commit: string): Promise<void> {
    if (revision !== commit) await this.#write(join(this.folder, 'refs', revision), commit);
  }

  /** Python's mark for a file that the commit does not have, so that nobody asks again. */
  async markAbsent(commit: string, fileName: string): Promise<void> {
    await this.#write(join(this.folder, '.no_exist', commit, fileName), '');
  }

  async isKnownAbsent(snapshotFolder: string, fileName: string): Promise<boolean> {
    const commit = relative(join(this.folder, 'snapshots'), snapshotFolder);
    return exists(join(this.folder, '.no_exist', commit, fileName));
  }

  /** Lets the snapshot's file be the blob. Another process may do the same at the same time. */
  async link(commit: string, fileName: string, etag: string): Promise<void> {
    const path = join(this.snapshotFolder(commit), fileName);
    const target = relative(dirname(path), this.blobPath(etag));
    try {
      await mkdir(dirname(path), { recursive: true });
      const current = await linkTarget(path);
      if (current === target) return;
      const temporary = `${path}.${randomUUID()}`;
      await symlink(target, temporary);
      await rename(temporary, path);
    } catch (error) {
      throw writeFailure(path, error);
    }
  }

  async #write(path: string, text: string): Promise<void> {
    const temporary = `${path}.${randomUUID()}`;
    try {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(temporary, text);
      await rename(temporary, path);
    } catch (error) {
      throw writeFailure(path, error);
    }
  }
}

/** Undefined where there is nothing, or no link. */
async function linkTarget(path: string): Promise<string | undefined> {
  try {
    return await readlink(path);
  } catch (error) {
    if (['ENOENT', 'EINVAL'].includes(systemCode(error) ?? '')) return undefined;
    throw error;
  }
}

/** What is missing of a snapshot before a model can be opened from it; undefined when nothing is. */
export async function missingPart(snapshotFolder: string): Promise<string | undefined> {
  if (!(await exists(join(snapshotFolder, 'config.json')))) return 'config.json';
  try {
    const names = await presentNames(snapshotFolder);
    // A damaged configuration is told of by whoever opens the model.
    const path = join(snapshotFolder, 'config.json');
    const config = await readOptionalJsonObject(path, 'BAD_CONFIG').catch(() => undefined);
    await findWeights(snapshotFolder, names, isLeftOut(config ?? {}));
    return undefined;
  } catch (error) {
    if (error instanceof OperatingError) return 'weights';
    throw error;
  }
}

/** Names in a folder, without links that lead nowhere: a blob may have been deleted. */
async function presentNames(folder: string): Promise<string[]> {
  const names = await readdir(folder);
  const present = await Promise.all(names.map((name) => exists(join(folder, name))));
  return names.filter((_, i) => present[i]);
}

/** Follows links. */
export function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: unknown) => {
      if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(systemCode(error) ?? '')) return false;
      throw new OperatingError('NOT_FOUND', `${path} cannot be looked at`, { cause: error });
    },
  );
}
