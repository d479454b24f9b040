// The directory of a zip file whose entries are stored, not compressed: where each entry's bytes lie in the file.
//
// Source: PKWARE's APPNOTE.TXT 6.3.10, §4.3 and §4.5.3 (zip64). What PyTorch writes is a subset: one disk, no
// encryption, no compression. Everything else is refused, and so are offsets that another reader could take otherwise.

import { OperatingError } from '../../offload/index.js';
import type { ByteSource } from '../files/byte-source.js';

export interface ZipEntry {
  readonly name: string;
  readonly nameBytes: Buffer;
  readonly flags: number;
  /** 0 is stored, 8 deflated. */
  readonly method: number;
  readonly compressedBytes: number;
  readonly sizeBytes: number;
  readonly headerOffset: number;
}

export interface ZipDirectory {
  readonly entries: ReadonlyMap<string, ZipEntry>;
  /** Where the directory begins: all data lies before it. */
  readonly directoryOffset: number;
}

const END_BYTES = 22;
const END64_BYTES = 56;
const LOCATOR64_BYTES = 20;
const CENTRAL_BYTES = 46;
const LOCAL_BYTES = 30;
const MAX_COMMENT_BYTES = 65_535;
/** PyTorch adds two entries per tensor at most and a handful besides; bounds what a directory can cost. */
const MAX_DIRECTORY_BYTES = 32 * 1024 * 1024;
const FULL_32 = 0xffffffff;

function bad(source: ByteSource, problem: string): OperatingError {
  return new OperatingError('BAD_TORCH_FILE', `${source.path} ${problem}`);
}

/** Errors: BAD_TORCH_FILE, and those of reading. */
export async function readZipDirectory(source: ByteSource): Promise<ZipDirectory> {
  const tailBytes = Math.min(source.sizeBytes, END_BYTES + LOCATOR64_BYTES + MAX_COMMENT_BYTES);
  const tailOffset = source.sizeBytes - tailBytes;
  const tail = await source.read(tailOffset, tailBytes);
  const end = findEnd(tail);
  if (end < 0) {
    throw bad(source, 'has no zip directory at its end, so it is incomplete: copy or download it again');
  }
  if (tail.readUInt16LE(end + 4) !== 0 || tail.readUInt16LE(end + 6) !== 0) {
    throw bad(source, 'is one part of a zip archive that is split over several files');
  }
  let count = tail.readUInt16LE(end + 10);
  let bytes = tail.readUInt32LE(end + 12);
  let offset = tail.readUInt32LE(end + 16);
  let directoryEnd = tailOffset + end;
  const locator = end - LOCATOR64_BYTES;
  if (locator >= 0 && tail.readUInt32LE(locator) === 0x07064b50) {
    const end64Offset = wide(source, tail, locator + 8);
    if (end64Offset + END64_BYTES !== tailOffset + locator) {
      throw bad(
        source,
        `has its zip64 end at byte ${end64Offset}, not right before the locator that says so`,
      );
    }
    const end64 = await source.read(end64Offset, END64_BYTES);
    if (end64.readUInt32LE(0) !== 0x06064b50) throw bad(source, `has no zip64 end at byte ${end64Offset}`);
    count = wide(source, end64, 32);
    bytes = wide(source, end64, 40);
    offset = wide(source, end64, 48);
    directoryEnd = end64Offset;
  }
  if (offset + bytes !== directoryEnd) {
    throw bad(
      source,
      `has a zip directory at [${offset}, ${offset + bytes}), but it must end at ${directoryEnd}`,
    );
  }
  if (bytes > MAX_DIRECTORY_BYTES) {
    throw bad(source, `has a zip directory of ${bytes} bytes, above the limit of ${MAX_DIRECTORY_BYTES}`);
  }
  return { entries: parseEntries(source, await source.read(offset, bytes), count), directoryOffset: offset };
}

/** Index of the end record in `tail`: the one whose comment runs exactly to the end of the file. */
function findEnd(tail: Buffer): number {
  for (let at = tail.length - END_BYTES; at >= 0; at--) {
    if (tail.readUInt32LE(at) === 0x06054b50 && at + END_BYTES + tail.readUInt16LE(at + 20) === tail.length) {
      return at;
    }
  }
  return -1;
}

function parseEntries(source: ByteSource, directory: Buffer, count: number): ReadonlyMap<string, ZipEntry> {
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  while (at < directory.length) {
    const left = directory.length - at;
    if (left < CENTRAL_BYTES || directory.readUInt32LE(at) !== 0x02014b50) {
      throw bad(source, `has no zip directory entry at byte ${at} of its directory`);
    }
    const nameBytes = directory.readUInt16LE(at + 28);
    const extraBytes = directory.readUInt16LE(at + 30);
    const entryBytes = CENTRAL_BYTES + nameBytes + extraBytes + directory.readUInt16LE(at + 32);
    if (entryBytes > left) throw bad(source, `has a zip directory entry of ${entryBytes} bytes in ${left}`);
    const entry = parseEntry(source, directory.subarray(at, at + entryBytes), nameBytes, extraBytes);
    if (entries.has(entry.name)) throw bad(source, `has two zip entries ${JSON.stringify(entry.name)}`);
    entries.set(entry.name, entry);
    at += entryBytes;
  }
  if (entries.size !== count) {
    throw bad(source, `has ${entries.size} zip entries, but its directory counts ${count}`);
  }
  return entries;
}

function parseEntry(source: ByteSource, entry: Buffer, nameBytes: number, extraBytes: number): ZipEntry {
  const extraStart = CENTRAL_BYTES + nameBytes;
  const name = entry.subarray(CENTRAL_BYTES, extraStart);
  const extra = wideFields(entry.subarray(extraStart, extraStart + extraBytes));
  let extraAt = 0;
  // Sizes and offsets that do not fit 32 bits stand in the extra field, in this order.
  const field = (at: number): number => {
    const narrow = entry.readUInt32LE(at);
    if (narrow !== FULL_32 || !extra) return narrow;
    if (extraAt + 8 > extra.length) throw bad(source, 'has a zip64 entry without its sizes');
    extraAt += 8;
    return wide(source, extra, extraAt - 8);
  };
  const sizeBytes = field(24);
  const compressedBytes = field(20);
  return {
    name: name.toString('utf8'),
    nameBytes: name,
    flags: entry.readUInt16LE(8),
    method: entry.readUInt16LE(10),
    compressedBytes,
    sizeBytes,
    headerOffset: field(42),
  };
}

/** The zip64 part of an extra field, if there is one. */
function wideFields(extra: Buffer): Buffer | undefined {
  for (let at = 0; at + 4 <= extra.length; ) {
    const end = at + 4 + extra.readUInt16LE(at + 2);
    if (extra.readUInt16LE(at) === 0x0001) return extra.subarray(at + 4, Math.min(end, extra.length));
    at = end;
  }
  return undefined;
}

function wide(source: ByteSource, bytes: Buffer, at: number): number {
  const value = bytes.readBigUInt64LE(at);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw bad(source, `has a zip directory with the number ${value}, which no file reaches`);
  }
  return Number(value);
}

/** Where the entry's data begins. Reads its local header, which must agree with the directory. */
export async function dataOffsetOf(
  source: ByteSource,
  directory: ZipDirectory,
  entry: ZipEntry,
): Promise<number> {
  const refuse = (problem: string) => bad(source, `${problem}: zip entry ${JSON.stringify(entry.name)}`);
  if ((entry.flags & 1) !== 0) throw refuse('holds encrypted data');
  if (entry.method !== 0)
    throw refuse(`holds compressed data (method ${entry.method}), which torch.save never writes`);
  if (entry.compressedBytes !== entry.sizeBytes) {
    throw refuse(`stores ${entry.compressedBytes} bytes for ${entry.sizeBytes}`);
  }
  const headerBytes = LOCAL_BYTES + entry.nameBytes.length;
  if (entry.headerOffset + headerBytes > directory.directoryOffset) {
    throw refuse(`is cut off or has a header at byte ${entry.headerOffset}, beyond its data`);
  }
  const header = await source.read(entry.headerOffset, headerBytes);
  if (header.readUInt32LE(0) !== 0x04034b50) throw refuse(`has no header at byte ${entry.headerOffset}`);
  const sameName = header.subarray(LOCAL_BYTES).equals(entry.nameBytes);
  if (!sameName || header.readUInt16LE(26) !== entry.nameBytes.length)
    throw refuse('names the data otherwise');
  if (header.readUInt16LE(8) !== entry.method) throw refuse('has a header of another method');
  // A header written before its data was known leaves the sizes 0 and sets bit 3.
  const localBytes = header.readUInt32LE(22);
  const known = (header.readUInt16LE(6) & 8) === 0 && localBytes !== FULL_32;
  if (known && localBytes !== entry.sizeBytes) throw refuse(`has a header that says ${localBytes} bytes`);
  const dataOffset = entry.headerOffset + headerBytes + header.readUInt16LE(28);
  if (dataOffset + entry.sizeBytes > directory.directoryOffset) {
    throw refuse(`has ${entry.sizeBytes} bytes from ${dataOffset}, beyond ${directory.directoryOffset}`);
  }
  return dataOffset;
}
