// The record beside the files of a store: what is finished of it, and what each file was when it was.

import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { hasSameContent, OperatingError, stateFrom } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { isJsonObject, readOptionalJsonObject } from '../files/json-file.js';
import { fileState, writeDurably } from '../staging/manifest.js';

/** What packing lost, as sums. */
export interface Loss {
  readonly squares: number;
  readonly lostSquares: number;
  readonly largestLoss: number;
}

export const NO_LOSS: Loss = { squares: 0, lostSquares: 0, largestLoss: 0 };

export function addLoss(a: Loss, b: Loss): Loss {
  return {
    squares: a.squares + b.squares,
    lostSquares: a.lostSquares + b.lostSquares,
    largestLoss: Math.max(a.largestLoss, b.largestLoss),
  };
}

/** Root mean square of what was lost, relative to that of the weights. */
export function relativeLoss({ squares, lostSquares }: Loss): number {
  return squares === 0 ? 0 : Math.sqrt(lostSquares / squares);
}

export interface FinishedFile extends Loss {
  readonly name: string;
  readonly sizeBytes: number;
  readonly mtimeNs: string;
  readonly ctimeNs: string;
}

export const PACK_RECORD = 'zero-inference-pack.json';
const FORMAT = 'zero-inference pack 1';

export interface PackRecord {
  /** Tells apart sources and settings. */
  readonly id: string;
  readonly files: ReadonlyMap<string, FinishedFile>;
}

/** Undefined where there is none that can be read. */
export async function readRecord(folder: string): Promise<PackRecord | undefined> {
  const record = await readOptionalJsonObject(join(folder, PACK_RECORD), 'BAD_INPUT').catch((error) => {
    if (error instanceof OperatingError && error.code === 'BAD_INPUT') return undefined;
    throw error;
  });
  if (record?.format !== FORMAT || typeof record.id !== 'string' || !Array.isArray(record.files)) {
    return undefined;
  }
  return { id: record.id, files: new Map(record.files.flatMap(fileOf).map((file) => [file.name, file])) };
}

/** Replaces the record in one step. */
export async function writeRecord(folder: string, { id, files }: PackRecord): Promise<void> {
  await writeDurably(
    folder,
    PACK_RECORD,
    `${JSON.stringify({ format: FORMAT, id, files: [...files.values()] }, undefined, 2)}\n`,
  );
}

/** The times that tell whether somebody has written to it since. */
export async function finished(folder: string, name: string, loss: Loss): Promise<FinishedFile> {
  const { sizeBytes, mtimeNs, ctimeNs } = await fileState(join(folder, name));
  return { name, sizeBytes, mtimeNs, ctimeNs, ...loss };
}

/** Whether the file is there as it was when it was finished. */
export async function isIntact(folder: string, file: FinishedFile): Promise<boolean> {
  const path = join(folder, file.name);
  const found = await ifThere(path, stat(path, { bigint: true }));
  return found !== undefined && hasSameContent(file, stateFrom(found));
}

function fileOf(value: unknown): FinishedFile[] {
  if (!isJsonObject(value)) return [];
  const { name, sizeBytes, mtimeNs, ctimeNs, squares, lostSquares, largestLoss } = value;
  if (typeof name !== 'string' || typeof mtimeNs !== 'string' || typeof ctimeNs !== 'string') return [];
  const numbers = [sizeBytes, squares, lostSquares, largestLoss];
  if (!numbers.every((number): number is number => typeof number === 'number')) return [];
  const [size = 0, all = 0, lost = 0, largest = 0] = numbers;
  return [{ name, sizeBytes: size, mtimeNs, ctimeNs, squares: all, lostSquares: lost, largestLoss: largest }];
}
