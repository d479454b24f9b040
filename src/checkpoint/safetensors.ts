// The header of a safetensors file: which tensors it holds and where. Tensor data is never read.
//
// The checks are those of the format's reference reader (huggingface/safetensors, tensor.rs): one error per way
// a file can be wrong. A header that passes describes the whole file, without holes and without overlap.

import { OperatingError } from '../../offload/index.js';
import { type ByteSource, withFile } from '../files/byte-source.js';
import { isJsonObject, type JsonObject, reason, show } from '../files/json-file.js';

export interface HeaderTensor {
  readonly name: string;
  /** As the file spells it: `F32`, `BF16`, `I64`… (the keys of DTYPE_BITS). */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Counted from the start of the file. */
  readonly fileOffset: number;
  readonly sizeBytes: number;
}

export interface SafetensorsHeader {
  readonly path: string;
  /** Size of the whole file. */
  readonly sizeBytes: number;
  /** Where tensor data begins: 8 bytes of length plus the header. */
  readonly dataOffset: number;
  readonly tensors: ReadonlyMap<string, HeaderTensor>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** Every type the format knows; which of them can be weights is the model's business. */
export const DTYPE_BITS: Readonly<Record<string, number>> = {
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  BOOL: 8,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E5M2FNUZ: 8,
  F8_E4M3FNUZ: 8,
  F8_E8M0: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  I64: 64,
  U64: 64,
  F64: 64,
  C64: 64,
};

const LENGTH_BYTES = 8;
const METADATA = '__metadata__';
/** The reference reader's own limit; it also bounds the memory a header can cost. */
const MAX_HEADER_BYTES = 100_000_000;

/** Reads and checks the header of one file. Errors: NOT_FOUND, BAD_SAFETENSORS, READ_FAILED, FILE_CHANGED. */
export function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  return withFile(path, 'BAD_SAFETENSORS', parseSafetensorsFile);
}

/** The same for any source of bytes. */
export async function parseSafetensorsFile(source: ByteSource): Promise<SafetensorsHeader> {
  return parseSafetensorsHeader(await readHeaderBytes(source), source.path, source.sizeBytes);
}

/** Checks the JSON part of a header (`bytes`) of a file of `sizeBytes`; `path` is for messages. */
export function parseSafetensorsHeader(
  bytes: Uint8Array,
  path: string,
  sizeBytes: number,
): SafetensorsHeader {
  const { [METADATA]: metadata, ...entries } = parseHeaderJson(bytes, path);
  const dataOffset = LENGTH_BYTES + bytes.byteLength;
  const tensors = Object.entries(entries).map(([name, entry]) => parseTensor(name, entry, dataOffset, path));
  checkTiling(tensors, dataOffset, sizeBytes, path);
  return {
    path,
    sizeBytes,
    dataOffset,
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
    metadata: parseMetadata(metadata ?? {}, path),
  };
}

function bad(path: string, problem: string): OperatingError {
  return new OperatingError('BAD_SAFETENSORS', `${path} ${problem}`);
}

async function readHeaderBytes({ path, sizeBytes, read }: ByteSource): Promise<Buffer> {
  if (sizeBytes < LENGTH_BYTES) {
    throw bad(
      path,
      `has ${sizeBytes} bytes, fewer than the ${LENGTH_BYTES} of a header length: copy it again`,
    );
  }
  const lengthField = await read(0, LENGTH_BYTES);
  // A clone without git-lfs leaves a three-line text in place of each weight file.
  if (lengthField.toString('latin1') === 'version ') {
    throw bad(path, 'is a Git LFS pointer, not the weights: fetch them with `git lfs pull`');
  }
  const length = lengthField.readBigUInt64LE();
  if (length === 0n) throw bad(path, 'has a header of 0 bytes');
  if (length > MAX_HEADER_BYTES) {
    throw bad(path, `claims a header of ${length} bytes, above the format's limit of ${MAX_HEADER_BYTES}`);
  }
  if (LENGTH_BYTES + Number(length) > sizeBytes) {
    throw bad(path, `is truncated: its header ends at byte ${8n + length}, the file has ${sizeBytes} bytes`);
  }
  return read(LENGTH_BYTES, Number(length));
}

function parseHeaderJson(bytes: Uint8Array, path: string): JsonObject {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw bad(path, 'has a header that is not UTF-8');
  }
  if (text[0] !== '{') throw bad(path, `has a header that begins with ${show(text[0] ?? '')} instead of '{'`);
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch (error) {
    throw bad(path, `has a header that is not JSON: ${show(reason(error))}`);
  }
  if (!isJsonObject(header)) throw bad(path, 'has a header that is not a JSON object');
  for (const [name, entry] of Object.entries(header)) {
    if (name === METADATA && entry === null) continue; // as the reference reader takes it: there is none
    if (!isJsonObject(entry)) throw bad(path, `describes ${show(name)} by something that is not an object`);
  }
  const twice = duplicateName(text);
  if (twice !== undefined) throw bad(path, `names ${show(twice)} twice`);
  return header;
}

/**
 * The first name that occurs twice at the top level. JSON.parse keeps the last one silently.
 * The text is valid JSON and every value an object, so each string at depth 1 is a name.
 */
function duplicateName(text: string): string | undefined {
  const seen = new Set<string>();
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (character === '{' || character === '[') depth++;
    else if (character === '}' || character === ']') depth--;
    else if (character === '"') {
      const end = stringEnd(text, i);
      if (depth === 1) {
        const name = String(JSON.parse(text.slice(i, end + 1)));
        if (seen.has(name)) return name;
        seen.add(name);
      }
      i = end;
    }
  }
  return undefined;
}

/** Index of the quote that closes the string opened at `start`. */
function stringEnd(text: string, start: number): number {
  let end = start + 1;
  while (text[end] !== '"') end += text[end] === '\\' ? 2 : 1;
  return end;
}

function parseMetadata(metadata: unknown, path: string): Readonly<Record<string, string>> {
  const entries: [string, string][] = [];
  for (const [key, value] of Object.entries(isJsonObject(metadata) ? metadata : {})) {
    if (typeof value !== 'string') throw bad(path, `has metadata ${show(key)} that is not a string`);
    entries.push([key, value]);
  }
  return Object.fromEntries(entries);
}

function parseTensor(name: string, entry: unknown, dataOffset: number, path: string): HeaderTensor {
  const { dtype, shape, data_offsets: offsets } = isJsonObject(entry) ? entry : {};
  const tensor = `tensor ${show(name)}`;
  if (typeof dtype !== 'string') throw bad(path, `gives ${tensor} no dtype`);
  const bits = Object.hasOwn(DTYPE_BITS, dtype) ? DTYPE_BITS[dtype] : undefined;
  if (bits === undefined) throw bad(path, `gives ${tensor} the unknown dtype ${show(dtype)}`);
  if (!isSizes(shape))
    throw bad(path, `gives ${tensor} the shape ${show(shape)}: sizes are whole numbers from 0`);
  if (!isSizes(offsets) || offsets.length !== 2) {
    throw bad(path, `gives ${tensor} the data_offsets ${show(offsets)} instead of [begin, end]`);
  }
  const [begin = 0, end = 0] = offsets;
  if (end < begin)
    throw bad(path, `gives ${tensor} the data_offsets [${begin}, ${end}], which end before they begin`);
  const sizeBytes = productOf(shape) * (bits / 8);
  if (!Number.isSafeInteger(sizeBytes)) {
    throw bad(path, `gives ${tensor} the type ${dtype} ${show(shape)}: no whole number of bytes below 2^53`);
  }
  if (end - begin !== sizeBytes) {
    throw bad(
      path,
      `stores ${end - begin} bytes for ${tensor}, but ${dtype} ${show(shape)} needs ${sizeBytes}`,
    );
  }
  return { name, dtype, shape, fileOffset: dataOffset + begin, sizeBytes };
}

/** 1 for a scalar. Inexact beyond 2^53, which the caller refuses; a 0 anywhere makes it 0, however large the rest. */
function productOf(shape: readonly number[]): number {
  return shape.includes(0) ? 0 : shape.reduce((product, size) => product * size, 1);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** Ordered by offset, each tensor must begin where the one before ends, and the last must end the file. */
function checkTiling(
  tensors: readonly HeaderTensor[],
  dataOffset: number,
  fileBytes: number,
  path: string,
): void {
  const ordered = [...tensors].sort((a, b) => a.fileOffset - b.fileOffset || a.sizeBytes - b.sizeBytes);
  const endBytes = ordered.reduce((end, t) => Math.max(end, t.fileOffset + t.sizeBytes), dataOffset);
  if (endBytes > fileBytes) {
    throw bad(
      path,
      `is truncated: its tensors need ${endBytes} bytes, it has ${fileBytes}; copy or download it again`,
    );
  }
  let next = dataOffset;
  for (const tensor of ordered) {
    const { name, fileOffset, sizeBytes } = tensor;
    if (fileOffset < next)
      throw bad(path, `stores ${next - fileOffset} bytes of tensor ${show(name)} in another one`);
    if (fileOffset > next)
      throw bad(path, `has ${fileOffset - next} bytes before ${show(name)} that are no tensor's`);
    next = fileOffset + sizeBytes;
  }
  if (next < fileBytes) throw bad(path, `has ${fileBytes - next} bytes after its last tensor`);
}
