// Copies of weights on other drives, packed weights, and random ones: which of the folders in a place they are, and what belongs to each.

import { basename, dirname, join } from 'node:path';
import { DUMMY_RECORD } from '../dummy/store.js';
import { readManifest } from '../staging/manifest.js';
import { COPY_FOLDER, COPY_LOCK } from '../staging/staging.js';
import { readStripeRecord, type StripeRecord } from '../staging/stripe-record.js';
import {
  bytesOf,
  foldersIn,
  lastUsed,
  type Removal,
  type Stored,
  type StoredFile,
  type Tree,
  treeBelow,
} from './stored.js';

/** Everything that this program writes into such folders. */
const WEIGHTS = /\.(safetensors|bin)(\.stripe)?(\.partial)?$/;
const OF_COPIES = /^(manifest\.json(\.partial)?|lock(\.\d+)?)$/;
const OF_DUMMIES = /^(config\.json|model\.safetensors\.index\.json|zero-inference-dummy\.json(\.partial)?)$/;
/** As names of packed weights end; what is being written has one more ending. */
const PACKED_FOLDER = /-(int8|int4|fp8)-[0-9a-f]{8}(\.partial)?$/;
/** As names of random weights end; what is being written has one more ending. */
const DUMMY_FOLDER = /-(float16|bfloat16|float32)-[0-9a-f]{8}(\.partial)?$/;

/** In a folder that was given to --nvme_offload_path. */
export async function copiesIn(place: string): Promise<Stored[]> {
  const names = (await foldersIn(place)).filter((name) => COPY_FOLDER.test(name));
  return Promise.all(
    names.map(async (name) => {
      const path = join(place, name);
      const striped = await readStripeRecord(path);
      const [manifest, tree] = [striped?.files ?? (await readManifest(path)), await treeBelow(path)];
      const sources = [...new Set([...manifest.values()].map(({ source }) => dirname(source.path)))];
      const whole = (file: StoredFile) => manifest.has(basename(file.path));
      const weights = tree.files.filter((file) => WEIGHTS.test(file.path));
      return {
        ...stored('copy', path, tree),
        incompleteBytes: bytesOf(weights.filter((file) => !whole(file))),
        about: aboutCopy(sources, striped),
      };
    }),
  );
}

function aboutCopy(sources: readonly string[], striped: StripeRecord | undefined): string {
  const of = sources.length > 0 ? `of ${sources.join(', ')}` : 'of what was never copied to its end';
  if (!striped) return of;
  return `${of}, the part of drive ${striped.drive + 1} of ${striped.drives.length}`;
}

/** In a folder where random weights are made. */
export async function dummiesIn(place: string): Promise<Stored[]> {
  const found: Stored[] = [];
  for (const name of await foldersIn(place)) {
    const path = join(place, name);
    const tree = await treeBelow(path);
    const isRecorded = tree.files.some((file) => file.path === join(path, DUMMY_RECORD));
    if (!isRecorded && !DUMMY_FOLDER.test(name)) continue;
    const isPartial = name.endsWith('.partial');
    const entry = stored('dummy', path, tree);
    found.push({
      ...entry,
      incompleteBytes: isPartial ? entry.sizeBytes : 0,
      about: isPartial ? 'never written to its end' : 'random weights',
    });
  }
  return found;
}

/** In the folder where checkpoints are packed at first use. */
export async function packedIn(place: string): Promise<Stored[]> {
  const names = (await foldersIn(place)).filter((name) => PACKED_FOLDER.test(name));
  return Promise.all(
    names.map(async (name) => {
      const path = join(place, name);
      const entry = stored('packed', path, await treeBelow(path));
      const isPartial = name.endsWith('.partial');
      return {
        ...entry,
        incompleteBytes: isPartial ? entry.sizeBytes : 0,
        about: isPartial ? 'never written to its end, gone on with at the next use' : 'packed at first use',
      };
    }),
  );
}

function stored(kind: Stored['kind'], path: string, tree: Tree): Omit<Stored, 'about' | 'incompleteBytes'> {
  const { files } = tree;
  return {
    kind,
    name: basename(path),
    path,
    sizeBytes: bytesOf(files),
    usedAt: lastUsed(files.filter((file) => WEIGHTS.test(file.path))),
    revisions: [],
  };
}

/** What others have put into the folder stays, and the folder with it. */
export async function copyRemoval({ kind, path }: Stored): Promise<Removal> {
  const own = kind === 'copy' ? OF_COPIES : OF_DUMMIES;
  const lock = lockOf(kind, path);
  const { files, folders } = await treeBelow(path);
  // Everything below the folder of packed weights is written there by us, what belongs to the checkpoint among it.
  if (kind === 'packed') return { files: recordFirst(files), folders, locks: [lock], ownLock: lock };
  const ours = files.filter(
    (file) =>
      dirname(file.path) === path &&
      file.path !== lock &&
      (WEIGHTS.test(file.path) || own.test(basename(file.path))),
  );
  return {
    files: recordFirst(ours),
    folders: folders.filter((folder) => folder === path),
    locks: [lock],
    ownLock: lock,
  };
}

/** Without its record nothing is taken for whole any more. */
function recordFirst(files: readonly StoredFile[]): StoredFile[] {
  const order = (file: StoredFile) => (WEIGHTS.test(file.path) ? 1 : 0);
  return [...files].sort((a, b) => order(a) - order(b));
}

/** Beside packed and random weights, which appear in one step; in the folder of a copy. */
function lockOf(kind: Stored['kind'], path: string): string {
  return kind === 'copy' ? join(path, COPY_LOCK) : `${path.replace(/\.partial$/, '')}.lock`;
}
