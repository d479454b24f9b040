// The requests of a batch's input: read through once, and each again when its turn comes.

import { createHash, type Hash } from 'node:crypto';
import { OperatingError } from '../../offload/index.js';
import type { InputName } from '../files/input.js';
import { show } from '../files/json-file.js';
import { LineStore } from '../files/line-store.js';
import { badText, readLines } from '../files/text-file.js';
import { Turns } from '../files/turns.js';
import { type BadLine, type BatchRequest, MOST_LINE_BYTES, parseLine } from './batch-line.js';

export interface InputOptions {
  /** The only endpoint that requests may name. */
  readonly endpoint?: string | undefined;
  readonly onProgress?: ((lines: number) => void) | undefined;
}

/** Lines stay in the file; some 60 bytes of memory are held for each while it is read through, and 20 afterwards. */
export class BatchInput {
  readonly #lines: LineStore;
  readonly #input: InputName;
  readonly #endpoint: string | undefined;
  /** Covers all lines: the same for the same requests in the same order. */
  readonly digest: string;

  private constructor(lines: LineStore, input: InputName, endpoint: string | undefined, digest: string) {
    this.#lines = lines;
    this.#input = input;
    this.#endpoint = endpoint;
    this.digest = digest;
  }

  /** Throws NOT_FOUND, or BAD_INPUT where two lines have one custom_id, or where there are none. */
  static async read(input: InputName, { endpoint, onProgress }: InputOptions = {}): Promise<BatchInput> {
    const lines = new LineStore(input);
    try {
      const hash = createHash('sha256');
      const turns = new Turns();
      const ids = new SeenIds();
      for await (const group of readLines(input)) {
        for (const line of group) {
          if (isBlank(line.bytes)) continue;
          lines.add(line);
          hash.update(line.bytes).update('\n');
          const { customId } = await parseLine(line.bytes, endpoint);
          if (customId !== null) ids.add(customId);
          if (turns.isOver) await turns.next();
        }
        onProgress?.(lines.length);
      }
      if (lines.length === 0) throw badText(input, 'has no requests: give one a line');
      const found = new BatchInput(lines, input, endpoint, digestOf(hash));
      await found.#refuseDoubled(ids);
      return found;
    } catch (error) {
      lines.close();
      throw error;
    }
  }

  get length(): number {
    return this.#lines.length;
  }

  /** In the file, from 1. */
  lineNumber(index: number): number {
    return this.#lines.numberOf(index);
  }

  /** Rejects with FILE_CHANGED. */
  async at(index: number): Promise<BatchRequest | BadLine> {
    return parseLine(this.#lines.bytesOf(index), this.#endpoint);
  }

  close(): void {
    this.#lines.close();
  }

  async #refuseDoubled(ids: SeenIds): Promise<void> {
    if (ids.suspects.size === 0) return;
    const first = new Map<string, number>();
    for (let index = 0; index < this.length; index++) {
      const { customId } = await this.at(index);
      if (customId === null || !ids.isSuspect(customId)) continue;
      const before = first.get(customId);
      if (before !== undefined) {
        const where = `in line ${this.lineNumber(before)} and again in line ${this.lineNumber(index)}`;
        throw new DoubledId(
          badText(this.#input, `has custom_id ${show(customId)} ${where}: give each request its own`).message,
          this.lineNumber(index),
        );
      }
      first.set(customId, index);
    }
  }
}

/** Two requests have one custom_id. */
export class DoubledId extends OperatingError {
  /** Where the second one is. */
  readonly line: number;

  constructor(message: string, line: number) {
    super('BAD_INPUT', message);
    this.line = line;
  }
}

/** Which ids may have come twice, by 48 bits of each: millions of long ids need not be held. */
class SeenIds {
  readonly #hashes = new Set<number>();
  readonly suspects = new Set<number>();

  add(id: string): void {
    const hash = shortHash(id);
    if (this.#hashes.has(hash)) this.suspects.add(hash);
    else this.#hashes.add(hash);
  }

  isSuspect(id: string): boolean {
    return this.suspects.has(shortHash(id));
  }
}

function shortHash(id: string): number {
  return createHash('sha1').update(id).digest().readUIntBE(0, 6);
}

function digestOf(hash: Hash): string {
  return hash.digest('hex').slice(0, 32);
}

function isBlank(bytes: Buffer): boolean {
  if (bytes.length > MOST_LINE_BYTES) return false;
  return bytes.every((byte) => byte === 32 || byte === 9 || byte === 13);
}
