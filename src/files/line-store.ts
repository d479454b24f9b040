// Lines of an input that are read again when they are needed: from the file where it is one, else from memory.

import { closeSync, fstatSync, openSync, type Stats } from 'node:fs';
import { OperatingError, present } from '../../offload/index.js';
import { GrowingNumbers } from './growing-numbers.js';
import { type InputName, isRereadable } from './input.js';
import { readWholeSync } from './read-whole.js';
import { badText, type RawLine, textOfLine } from './text-file.js';

/** A pipe without an end must not fill the memory. */
const MOST_HELD_BYTES = 2 ** 30;

/** Keeps some twenty bytes a line, and the lines themselves only where they come by a pipe. */
export class LineStore {
  readonly #input: InputName;
  /** Where each line begins: in the file, or among all bytes that are held. */
  readonly #offsets = new GrowingNumbers((length) => new Float64Array(length));
  readonly #lengths = new GrowingNumbers((length) => new Int32Array(length));
  /** The line's number in the input, from 1; blank lines count. */
  readonly #numbers = new GrowingNumbers((length) => new Int32Array(length));
  readonly #source: FileLines | HeldLines;

  constructor(input: InputName) {
    this.#input = input;
    this.#source = isRereadable(input.path) ? new FileLines(input.path) : new HeldLines();
  }

  get length(): number {
    return this.#lengths.length;
  }

  get heldBytes(): number {
    return (
      this.#source.heldBytes +
      [this.#offsets, this.#lengths, this.#numbers].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
    );
  }

  /** Throws BAD_INPUT when it would take too much memory. */
  add(line: RawLine): void {
    if (this.heldBytes > MOST_HELD_BYTES) throw this.#tooMuch();
    this.#offsets.push(this.#source.keep(line));
    this.#lengths.push(line.bytes.length);
    this.#numbers.push(line.number);
  }

  #tooMuch(): OperatingError {
    const most = `${MOST_HELD_BYTES / 2 ** 30} GiB of memory`;
    return badText(
      this.#input,
      `takes more than ${most} after ${this.length.toLocaleString('en')} prompts: give it in parts` +
        (this.#source instanceof HeldLines ? ', or as a file, whose text need not be held' : ''),
    );
  }

  numberOf(index: number): number {
    return this.#numbers.at(index);
  }

  /** Throws FILE_CHANGED. */
  textOf(index: number): string {
    return textOfLine({ bytes: this.bytesOf(index), number: this.#numbers.at(index) }, this.#input);
  }

  /** Not to be changed. Throws FILE_CHANGED. */
  bytesOf(index: number): Buffer {
    return this.#source.read(this.#offsets.at(index), this.#lengths.at(index));
  }

  close(): void {
    this.#source.close();
  }
}

class FileLines {
  readonly heldBytes = 0;
  readonly #path: string;
  readonly #file: number;
  readonly #found: Stats;

  constructor(path: string) {
    this.#path = path;
    this.#file = openSync(path, 'r');
    this.#found = fstatSync(this.#file);
  }

  keep({ offset }: RawLine): number {
    return offset;
  }

  read(offset: number, length: number): Buffer {
    const now = fstatSync(this.#file);
    const bytes = Buffer.allocUnsafe(length);
    const same = now.size === this.#found.size && now.mtimeMs === this.#found.mtimeMs;
    if (same && readWholeSync(this.#file, bytes, offset) === length) return bytes;
    throw new OperatingError(
      'FILE_CHANGED',
      `${this.#path} changed while its prompts were in use: begin again, and leave it as it is`,
    );
  }

  close(): void {
    closeSync(this.#file);
  }
}

const CHUNK_BYTES = 1 << 20;
/** An address is the chunk's index times this, and the offset in it. */
const CHUNK_STRIDE = 2 ** 32;

/** Whole lines, one after the other in chunks. */
class HeldLines {
  readonly #chunks: Buffer[] = [];
  /** How much of the last chunk is used. */
  #usedBytes = 0;
  heldBytes = 0;

  keep({ bytes }: RawLine): number {
    let chunk = this.#chunks.at(-1);
    if (!chunk || this.#usedBytes + bytes.length > chunk.length) {
      chunk = Buffer.allocUnsafeSlow(Math.max(CHUNK_BYTES, bytes.length));
      this.#chunks.push(chunk);
      this.#usedBytes = 0;
      this.heldBytes += chunk.length;
    }
    const address = (this.#chunks.length - 1) * CHUNK_STRIDE + this.#usedBytes;
    bytes.copy(chunk, this.#usedBytes);
    this.#usedBytes += bytes.length;
    return address;
  }

  read(address: number, length: number): Buffer {
    const chunk = present(this.#chunks[Math.floor(address / CHUNK_STRIDE)], 'chunk of lines');
    const offset = address % CHUNK_STRIDE;
    return chunk.subarray(offset, offset + length);
  }

  close(): void {
    this.#chunks.length = 0;
  }
}
