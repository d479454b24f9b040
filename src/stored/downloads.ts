// Models of the hub as they lie in its cache: revisions, the blobs they share, and what was half written.

import { lstat, readFile, readlink } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import {
  bytesOf,
  foldersIn,
  lastUsed,
  type Removal,
  type Revision,
  type Stored,
  type StoredFile,
  type Tree,
  treeBelow,
} from './stored.js';

const FOLDER = /^models--(.+)$/;
const INCOMPLETE = /\.incomplete(\.[0-9a-f-]+)?$/;
/** What is said instead of a revision for what was half written. */
const HALF_WRITTEN = 'incomplete';
const LEAST_COMMIT_LETTERS = 6;

/** A model's folder, looked through once. */
interface ModelFolder {
  readonly path: string;
  readonly tree: Tree;
  readonly refs: readonly { readonly file: StoredFile; readonly name: string; readonly commit: string }[];
  /** By commit: its files, and the blobs that they link to. */
  readonly snapshots: ReadonlyMap<string, { readonly files: StoredFile[]; readonly blobs: Set<string> }>;
}

/** @param cache holds a `models--org--name` folder per model */
export async function downloadsIn(cache: string): Promise<Stored[]> {
  const names = (await foldersIn(cache)).filter((name) => FOLDER.test(name));
  return Promise.all(names.map((name) => storedFolder(join(cache, name))));
}

/** What cannot be looked into, as another user's may be, hides no other. */
async function storedFolder(path: string): Promise<Stored> {
  try {
    return storedModel(await lookThrough(path));
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    const nothing = { sizeBytes: 0, incompleteBytes: 0, usedAt: undefined, revisions: [] };
    return { kind: 'download', name: nameOf(path), path, about: 'cannot be looked into', ...nothing };
  }
}

function nameOf(path: string): string {
  return (FOLDER.exec(basename(path))?.[1] ?? '').replaceAll('--', '/');
}

function storedModel(model: ModelFolder): Stored {
  const { path, tree, refs, snapshots } = model;
  const sizes = new Map(tree.files.map(({ path: file, sizeBytes }) => [file, sizeBytes]));
  const revisions = [...snapshots].map(([commit, { files, blobs }]): Revision => {
    const linked = [...blobs].reduce((sum, blob) => sum + (sizes.get(blob) ?? 0), 0);
    return {
      commit,
      refs: refs.filter((ref) => ref.commit === commit).map(({ name }) => name),
      sizeBytes: bytesOf(files) + linked,
      path: join(path, 'snapshots', commit),
    };
  });
  const named = revisions.map(({ commit, refs: names }) =>
    names.length > 0 ? `${names.join(', ')} (${commit.slice(0, 8)})` : commit.slice(0, 8),
  );
  return {
    kind: 'download',
    name: nameOf(path),
    path,
    sizeBytes: bytesOf(tree.files),
    incompleteBytes: bytesOf(halfWritten(tree)),
    // Refs were read to list them.
    usedAt: lastUsed(tree.files.filter((file) => !file.path.startsWith(`${join(path, 'refs')}/`))),
    about: named.length > 0 ? named.join(', ') : 'no whole file',
    revisions,
  };
}

function halfWritten({ files }: Tree): StoredFile[] {
  return files.filter(({ path }) => INCOMPLETE.test(path));
}

async function lookThrough(path: string): Promise<ModelFolder> {
  const tree = await treeBelow(path);
  const below = (folder: string) =>
    tree.files.filter((file) => file.path.startsWith(`${join(path, folder)}/`));
  const refs = await Promise.all(
    below('refs').map(async (file) => {
      const text = (await ifThere(file.path, readFile(file.path, 'utf8'))) ?? '';
      return { file, name: relative(join(path, 'refs'), file.path), commit: text.trim() };
    }),
  );
  const snapshots = new Map<string, { files: StoredFile[]; blobs: Set<string> }>();
  for (const commit of await foldersIn(join(path, 'snapshots')))
    snapshots.set(commit, { files: [], blobs: new Set() });
  for (const file of below('snapshots')) {
    const [commit = ''] = relative(join(path, 'snapshots'), file.path).split('/');
    const snapshot = snapshots.get(commit);
    snapshot?.files.push(file);
    const target = file.isLink ? await ifThere(file.path, readlink(file.path)) : undefined;
    if (target !== undefined) snapshot?.blobs.add(resolve(dirname(file.path), target));
  }
  return { path, tree, refs, snapshots };
}

/**
 * @param what a branch, a tag, a commit or the beginning of one, or `incomplete`; undefined for all of the model
 * Throws NOT_FOUND or BAD_OPTION.
 */
export async function downloadRemoval({ path, name }: Stored, what: string | undefined): Promise<Removal> {
  if ((await ifThere(path, lstat(path)))?.isSymbolicLink()) throw isLink(path);
  const model = await lookThrough(path);
  const { tree } = model;
  // Python's client locks what it downloads there.
  const locks = (await treeBelow(join(dirname(path), '.locks', basename(path)))).files.map(
    (file) => file.path,
  );
  const held = { locks, ownLock: undefined };
  if (what === HALF_WRITTEN) return { files: halfWritten(tree), folders: [], ...held };
  if (what !== undefined) return { ...revisionRemoval(model, commitOf(model, name, what)), ...held };
  // What leads to blobs goes before them, so that a snapshot never seems whole that is not.
  const order = (file: StoredFile) => (file.path.startsWith(`${join(path, 'blobs')}/`) ? 1 : 0);
  return { files: [...tree.files].sort((a, b) => order(a) - order(b)), folders: tree.folders, ...held };
}

function isLink(path: string): OperatingError {
  return new OperatingError('BAD_OPTION', `${path} is a link to somewhere else: remove it yourself`);
}

function commitOf({ snapshots, refs }: ModelFolder, name: string, what: string): string {
  const named = refs.filter((ref) => ref.name === what).map(({ commit }) => commit);
  const begun =
    what.length >= LEAST_COMMIT_LETTERS
      ? [...snapshots.keys()].filter((commit) => commit.startsWith(what))
      : [];
  const found = [...new Set([...named, ...begun])].filter((commit) => snapshots.has(commit));
  const [commit] = found;
  if (commit !== undefined && found.length === 1) return commit;
  const known = [...snapshots.keys()].map((one) => one.slice(0, 8)).join(', ') || 'none';
  throw new OperatingError(
    'NOT_FOUND',
    `${name} has ${found.length === 0 ? 'no revision' : `${found.length} revisions`} '${what}': give one of ${known}`,
  );
}

/** Blobs that other revisions link to stay. */
function revisionRemoval(
  { path, tree, refs, snapshots }: ModelFolder,
  commit: string,
): Pick<Removal, 'files' | 'folders'> {
  const own = snapshots.get(commit);
  const others = new Set([...snapshots].flatMap(([one, { blobs }]) => (one === commit ? [] : [...blobs])));
  const goes = (file: StoredFile) => own?.blobs.has(file.path) === true && !others.has(file.path);
  const inside = (folder: string) =>
    [join(path, 'snapshots', commit), join(path, '.no_exist', commit)].some(
      (root) => folder === root || folder.startsWith(`${root}/`),
    );
  return {
    files: [
      ...refs.filter((ref) => ref.commit === commit).map(({ file }) => file),
      ...tree.files.filter((file) => inside(file.path)),
      ...tree.files.filter(goes),
    ],
    folders: tree.folders.filter(inside),
  };
}
