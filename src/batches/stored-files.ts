// Files that clients have uploaded, and files of results: content beside a record, the record last.

import { randomBytes } from 'node:crypto';
import { createReadStream, existsSync, renameSync, rmSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { z } from 'zod';
import { writeError } from '../files/output-file.js';
import { damaged, STORE, type StoreFolder } from './store-folder.js';

const STORED_FILE = z.object({
  id: z.string().regex(/^file-[0-9a-f]{24}$/),
  owner: z.string().nullable(),
  bytes: z.number().int().nonnegative(),
  created_at: z.number().int(),
  filename: z.string(),
  purpose: z.string(),
});

export type StoredFile = Readonly<z.infer<typeof STORED_FILE>>;
/** Content that has come. */
export interface ReceivedFile {
  readonly id: string;
  readonly partial: string;
  readonly bytes: number;
}

export type NewFile = Pick<StoredFile, 'owner' | 'filename' | 'purpose'>;

export function newFileId(): string {
  return `file-${randomBytes(12).toString('hex')}`;
}

export class StoredFiles {
  readonly #store: StoreFolder;
  /** In the order in which they came. */
  readonly #files = new Map<string, StoredFile>();

  /** Throws READ_FAILED for a record that is damaged, or whose content is not there. */
  constructor(store: StoreFolder) {
    this.#store = store;
    const names = store.list('files');
    const found = names.flatMap((name) => {
      if (!name.endsWith('.json')) return [];
      const file = store.read(`files/${name}`, STORED_FILE);
      return file ? [file] : [];
    });
    found.sort((a, b) => a.created_at - b.created_at || (a.id < b.id ? -1 : 1));
    for (const file of found) {
      const size = statSync(this.pathOf(file), { throwIfNoEntry: false })?.size;
      if (size !== file.bytes)
        throw damaged(this.pathOf(file), `${size ?? 'nothing'} in place of ${file.bytes} bytes`);
      this.#files.set(file.id, file);
    }
  }

  /** Content whose record was never written, or is gone. @param kept ids of what batches are about to hand over */
  removeUnrecorded(kept: ReadonlySet<string>): void {
    for (const name of this.#store.list('files')) {
      const [, id] = /^(file-[0-9a-f]{24})\.jsonl$/.exec(name) ?? [];
      if (id === undefined || this.#files.has(id) || kept.has(id)) continue;
      this.#written(this.pathOf({ id }), () => rmSync(this.pathOf({ id }), { force: true }));
    }
  }

  /** Those that `owner` may see, oldest first. */
  list(owner: string | null): StoredFile[] {
    return [...this.#files.values()].filter((file) => isSeenBy(file, owner));
  }

  find(id: string, owner: string | null): StoredFile | undefined {
    const file = this.#files.get(id);
    return file && isSeenBy(file, owner) ? file : undefined;
  }

  has(id: string): boolean {
    return this.#files.has(id);
  }

  pathOf({ id }: Pick<StoredFile, 'id'>): string {
    return join(this.#store.path, 'files', `${id}.jsonl`);
  }

  /** All that comes, or nothing; it is nobody's until it is kept. Throws WRITE_FAILED, or what the content fails with. */
  async receive(content: AsyncIterable<Uint8Array>): Promise<ReceivedFile> {
    const id = newFileId();
    const partial = `${this.pathOf({ id })}.partial`;
    try {
      return { id, partial, bytes: await this.#receive(partial, content) };
    } catch (error) {
      rmSync(partial, { force: true });
      throw error;
    }
  }

  keep({ id, partial, bytes }: ReceivedFile, wanted: NewFile): StoredFile {
    const path = this.pathOf({ id });
    try {
      this.#written(path, () => renameSync(partial, path));
      return this.#enter({ ...wanted, id, bytes, created_at: nowSeconds() });
    } catch (error) {
      for (const left of [partial, path]) rmSync(left, { force: true });
      throw error;
    }
  }

  drop({ partial }: ReceivedFile): void {
    rmSync(partial, { force: true });
  }

  /** Piece by piece, as fast as the drive takes them; other requests go on meanwhile. */
  async #receive(path: string, content: AsyncIterable<Uint8Array>): Promise<number> {
    let bytes = 0;
    const file = await open(path, 'wx', 0o600).catch((error) => this.#refused(path, error));
    try {
      for await (const piece of content) {
        bytes += piece.length;
        await file.writeFile(piece).catch((error) => this.#refused(path, error));
      }
      await file.sync().catch((error) => this.#refused(path, error));
    } finally {
      await file.close();
    }
    return bytes;
  }

  #refused(path: string, error: unknown): never {
    throw writeError(path, STORE, error);
  }

  /** A file of this program's own becomes one of these; nothing changes where it is one already. */
  adopt(path: string, id: string, wanted: NewFile): StoredFile | undefined {
    const known = this.#files.get(id);
    if (known) return known;
    const target = this.pathOf({ id });
    this.#written(target, () => {
      if (existsSync(path)) renameSync(path, target);
    });
    const bytes = statSync(target, { throwIfNoEntry: false })?.size ?? 0;
    if (bytes > 0) return this.#enter({ ...wanted, id, bytes, created_at: nowSeconds() });
    rmSync(target, { force: true });
    return undefined;
  }

  remove(file: StoredFile): void {
    // Without its record the content is nobody's.
    this.#written(this.pathOf(file), () => {
      rmSync(join(this.#store.path, 'files', `${file.id}.json`), { force: true });
      rmSync(this.pathOf(file), { force: true });
    });
    this.#files.delete(file.id);
  }

  read(file: StoredFile): Readable {
    return createReadStream(this.pathOf(file));
  }

  #enter(file: StoredFile): StoredFile {
    this.#store.write(`files/${file.id}.json`, file);
    this.#files.set(file.id, file);
    return file;
  }

  #written<T>(path: string, write: () => T): T {
    try {
      return write();
    } catch (error) {
      throw writeError(path, STORE, error);
    }
  }
}

/** In OpenAI's form. */
export function fileObject({ owner: _, ...file }: StoredFile): object {
  return { object: 'file', ...file, status: 'processed', status_details: null, expires_at: null };
}

/** Without keys there is one owner of everything. */
export function isSeenBy({ owner }: { readonly owner: string | null }, asking: string | null): boolean {
  return asking === null || owner === null || owner === asking;
}

export function nowSeconds(): number {
  return Math.floor(Date.now() / 1e3);
}
