// Which weights made a run's texts: what is kept of them beside the results, and whether those of a later run are the same.
//
// Three things tell. The state of a file, as the system has it, is enough where it has not changed. A sample of every
// tensor tells a fine-tune, a merged adapter or another revision from its base. The hash of the whole content is certain;
// it is made of small models, and known of files that were copied to another drive, and of the hub's, which it names.

import { createHash } from 'node:crypto';
import { type FileHandle, open, realpath } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import {
  type FileState,
  formatBytes,
  GiB,
  hasSameContent,
  KiB,
  OperatingError,
  stateOfPath,
} from '../../../offload/index.js';
import type { Checkpoint, StoredTensor } from '../../checkpoint/checkpoint.js';
import { isJsonObject, type JsonObject, reason } from '../../files/json-file.js';
import { readWhole } from '../../files/read-whole.js';
import { hashFile, type Work } from '../../staging/copy.js';
import { sourceState } from '../../staging/manifest.js';

export interface WeightRecord extends Pick<FileState, 'sizeBytes' | 'mtimeNs' | 'ctimeNs' | 'inode'> {
  readonly name: string;
  /** Digest of the header and of a piece of each tensor. */
  readonly sample: string;
  /** Digest of all content, where it is known. */
  readonly sha256: string | undefined;
  /** That hash is the file's name in the hub's cache: of what was downloaded, which may have been written to since. */
  readonly isNamed: boolean;
}

export interface RecordWork extends Omit<Work, 'onBytes'> {
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Hashes of the files' content that somebody has made already. */
  readonly sha256?: readonly string[] | undefined;
  /** Up to how many bytes all weights are hashed. */
  readonly wholeBytes?: number;
  /** Told, in a sentence, what was taken for the same without certainty. */
  readonly onDoubt?: (sentence: string) => void;
}

/** Up to here all weights are hashed, which takes a second at most; of larger ones, only when there is a doubt. */
const WHOLE_BYTES = GiB;
const PIECE_BYTES = 4 * KiB;
const END_BYTES = 64 * KiB;
/** Where there are more tensors, as experts of mixtures, one piece of each is read. */
const MANY_TENSORS = 4096;
const READS_AT_ONCE = 16;

/**
 * What is to be known of a checkpoint's weights, file by file.
 * Errors: READ_FAILED, NOT_FOUND, FILE_CHANGED, INTERRUPTED.
 */
export async function recordWeights(checkpoint: Checkpoint, work: RecordWork = {}): Promise<WeightRecord[]> {
  const { files, fileStates } = checkpoint;
  const totalBytes = fileStates.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const pieces = piecesOf(checkpoint);
  const records: WeightRecord[] = [];
  let doneBytes = 0;
  const onBytes = (bytes: number) => {
    doneBytes += bytes;
    work.onProgress?.(doneBytes, totalBytes);
  };
  for (const [index, path] of files.entries()) {
    const state = fileStates[index] ?? stateOfPath(path);
    const sample = await hashPieces(path, pieces[index] ?? [], work.signal);
    const known = work.sha256?.[index];
    const isNamed = known === undefined && totalBytes > (work.wholeBytes ?? WHOLE_BYTES);
    const hash = async () => hashFile(await sourceState(path), { signal: work.signal, onBytes });
    const sha256 = known ?? (isNamed ? await hashInName(path) : await hash());
    // What was read must be what the headers were read of.
    if (!hasSameContent(state, stateOfPath(path))) {
      throw new OperatingError(
        'FILE_CHANGED',
        `${path} changed while it was looked at: start again when it is complete`,
      );
    }
    const { sizeBytes, mtimeNs, ctimeNs, inode } = state;
    records.push({ name: basename(path), sizeBytes, mtimeNs, ctimeNs, inode, sample, sha256, isNamed });
  }
  return records;
}

/** As it stands beside results. */
export function weightsToJson(records: readonly WeightRecord[]): readonly JsonObject[] {
  return records.map(({ name, sizeBytes, mtimeNs, ctimeNs, inode, sample, sha256 }) => ({
    name,
    size_bytes: sizeBytes,
    mtime_ns: mtimeNs,
    ctime_ns: ctimeNs,
    inode,
    sample,
    sha256: sha256 ?? null,
  }));
}

/** Undefined where it is no such list. */
export function weightsFromJson(value: unknown): WeightRecord[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const records = value.map((entry: unknown) => {
    if (!isJsonObject(entry)) return undefined;
    const { name, size_bytes, mtime_ns, ctime_ns, inode, sample, sha256 } = entry;
    const texts = [name, mtime_ns, ctime_ns, inode, sample];
    if (!texts.every((text) => typeof text === 'string') || typeof size_bytes !== 'number') return undefined;
    return {
      name: String(name),
      sizeBytes: size_bytes,
      mtimeNs: String(mtime_ns),
      ctimeNs: String(ctime_ns),
      inode: String(inode),
      sample: String(sample),
      sha256: typeof sha256 === 'string' ? sha256 : undefined,
      isNamed: false,
    };
  });
  return records.every((record) => record !== undefined) ? records : undefined;
}

/**
 * Why the weights are, or may be, other than those of the record, in words that go on after `with other weights: `;
 * undefined when they are the same. Reads files in full where only that is certain.
 * @param paths of the files that `now` describes
 */
export async function compareWeights(
  then: readonly WeightRecord[],
  now: readonly WeightRecord[],
  paths: readonly string[],
  work: RecordWork = {},
): Promise<string | undefined> {
  if (then.length !== now.length) return `there were ${then.length} weight files and are ${now.length} now`;
  const doubtful: { before: WeightRecord; path: string }[] = [];
  for (const [index, after] of now.entries()) {
    const before = then[index];
    const path = paths[index];
    if (!before || path === undefined) return `there is no file ${index}`;
    const verdict = judge(before, after);
    if (verdict === 'other') return `${path} has other content`;
    if (verdict === 'doubtful') doubtful.push({ before, path });
  }
  return hashDoubtful(doubtful, work);
}

/**
 * Why weights on one machine are other than those on another, by what is kept of both; undefined where all of it agrees.
 * Times and numbers of files say nothing there.
 */
export function otherWeights(
  one: readonly WeightRecord[],
  other: readonly WeightRecord[],
): string | undefined {
  if (one.length !== other.length) return `${one.length} weight files and ${other.length}`;
  for (const [index, a] of one.entries()) {
    const b = other[index];
    const known = a.sha256 !== undefined && b?.sha256 !== undefined;
    if (!b || a.sizeBytes !== b.sizeBytes || a.sample !== b.sample || (known && a.sha256 !== b.sha256)) {
      return `${a.name} has other content`;
    }
  }
  return undefined;
}

interface Piece {
  readonly offset: number;
  readonly sizeBytes: number;
}

/** By file: what lies before the tensors, four pieces of each of them, and the end, where PyTorch has its directory. */
function piecesOf({ tensors, fileStates, files }: Checkpoint): Piece[][] {
  const inFile = files.map((): StoredTensor[] => []);
  for (const tensor of tensors.values()) inFile[tensor.fileIndex]?.push(tensor);
  const perTensor = tensors.size > MANY_TENSORS ? 1 : 4;
  return inFile.map((own, index) => {
    own.sort((a, b) => a.fileOffset - b.fileOffset);
    const fileBytes = fileStates[index]?.sizeBytes ?? 0;
    const endBytes = Math.min(fileBytes, END_BYTES);
    return [
      { offset: 0, sizeBytes: own[0]?.fileOffset ?? Math.min(fileBytes, END_BYTES) },
      ...own.flatMap((tensor) => piecesOfTensor(tensor, perTensor)),
      { offset: fileBytes - endBytes, sizeBytes: endBytes },
    ];
  });
}

function piecesOfTensor({ fileOffset, sizeBytes }: StoredTensor, count: number): Piece[] {
  if (sizeBytes <= count * PIECE_BYTES) return [{ offset: fileOffset, sizeBytes }];
  return Array.from({ length: count }, (_, i) => {
    const middle = Math.floor(((2 * i + 1) / (2 * count)) * sizeBytes);
    return { offset: fileOffset + Math.min(middle, sizeBytes - PIECE_BYTES), sizeBytes: PIECE_BYTES };
  });
}

async function hashPieces(
  path: string,
  pieces: readonly Piece[],
  signal: AbortSignal | undefined,
): Promise<string> {
  const hash = createHash('sha256');
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'r');
    for (let first = 0; first < pieces.length; first += READS_AT_ONCE) {
      if (signal?.aborted) throw new OperatingError('INTERRUPTED', `stopped while ${path} was looked at`);
      const some = pieces.slice(first, first + READS_AT_ONCE);
      const reads = some.map(async ({ offset, sizeBytes }) => {
        const bytes = Buffer.alloc(sizeBytes);
        return file && bytes.subarray(0, await readWhole(file, bytes, offset));
      });
      for (const bytes of await Promise.all(reads)) if (bytes) hash.update(bytes);
    }
    return hash.digest('hex');
  } catch (error) {
    if (error instanceof OperatingError) throw error;
    throw new OperatingError('READ_FAILED', `${path} cannot be read: ${reason(error)}`, { cause: error });
  } finally {
    await file?.close();
  }
}

/** Large files in the cache of the hub are named by the SHA-256 of their content. */
async function hashInName(path: string): Promise<string | undefined> {
  const real = await realpath(path).catch(() => path);
  const name = basename(real);
  return basename(dirname(real)) === 'blobs' && /^[0-9a-f]{64}$/.test(name) ? name : undefined;
}

type Verdict = 'same' | 'other' | 'doubtful';

function judge(before: WeightRecord, after: WeightRecord): Verdict {
  if (before.sizeBytes !== after.sizeBytes || before.sample !== after.sample) return 'other';
  // Devices get other numbers at times; that a file of another device has all of these in common does not happen.
  if (before.inode === after.inode && hasSameContent(before, after)) return 'same';
  if (before.sha256 === undefined || after.sha256 === undefined) return 'doubtful';
  if (before.sha256 !== after.sha256) return 'other';
  // A hub's file is named by its content as it arrived: one that was written to since still has its name.
  return after.isNamed && before.inode === after.inode ? 'doubtful' : 'same';
}

async function hashDoubtful(
  doubtful: readonly { readonly before: WeightRecord; readonly path: string }[],
  { signal, onProgress, onDoubt }: RecordWork,
): Promise<string | undefined> {
  const totalBytes = doubtful.reduce((sum, { before }) => sum + before.sizeBytes, 0);
  let doneBytes = 0;
  const onBytes = (bytes: number) => {
    doneBytes += bytes;
    onProgress?.(doneBytes, totalBytes);
  };
  for (const { before, path } of doubtful) {
    const now = await sourceState(path);
    if (before.sha256 !== undefined) {
      const sha256 = await hashFile(now, { signal, onBytes });
      if (sha256 !== before.sha256) return `${path} has other content`;
    } else if (now.mtimeNs === before.mtimeNs) {
      onDoubt?.(
        `${path} was copied or renamed since the results were begun: its time and samples of its content agree`,
      );
    } else {
      const time = `@${before.mtimeNs.slice(0, -9)}.${before.mtimeNs.slice(-9)}`;
      return (
        `${path} was written to, touched or copied since, and samples of its ${formatBytes(before.sizeBytes)} agree, which ` +
        `is not certain (if it is the same, give it its time again: touch -m -d ${time})`
      );
    }
  }
  return undefined;
}
