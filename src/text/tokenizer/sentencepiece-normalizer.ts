// What SentencePiece makes of a text before it cuts it into pieces: characters replaced by its map, spaces as its rules say.

import { OperatingError } from '../../../offload/index.js';
import type { NormalizerRules } from './sentencepiece-model.js';

const SPACE = 0x20;
const MARK = Buffer.from('▁');
const REPLACEMENT = Buffer.from('\ufffd');

export class PieceNormalizer {
  readonly #rules: NormalizerRules;
  readonly #map: CharsMap | undefined;
  /** Pieces that the model's makers defined, which stay as they are, by their first byte, longest first. */
  readonly #kept: ReadonlyMap<number, readonly Buffer[]>;

  /** Throws BAD_TOKENIZER for a map that is none. @param path of the model, for messages */
  constructor(rules: NormalizerRules, kept: readonly string[], path: string) {
    this.#rules = rules;
    this.#map = rules.charsMap.length > 0 ? new CharsMap(rules.charsMap, path) : undefined;
    const byFirst = new Map<number, Buffer[]>();
    for (const text of kept) {
      const bytes = Buffer.from(text);
      const first = bytes[0];
      if (first !== undefined) byFirst.set(first, [...(byFirst.get(first) ?? []), bytes]);
    }
    for (const list of byFirst.values()) list.sort((a, b) => b.length - a.length);
    this.#kept = byFirst;
  }

  normalize(text: string): string {
    const { addDummyPrefix, spaceIsSuffix, removeExtraSpaces, escapeSpaces } = this.#rules;
    const from = Buffer.from(text);
    const out: Buffer[] = [];
    const space = escapeSpaces ? MARK : Buffer.of(SPACE);
    let at = 0;
    while (removeExtraSpaces && at < from.length) {
      const { bytes, length } = this.#next(from, at);
      if (bytes.length !== 1 || bytes[0] !== SPACE) break;
      at += length;
    }
    if (at >= from.length) return '';
    if (addDummyPrefix && !spaceIsSuffix) out.push(space);
    let isAfterSpace = removeExtraSpaces;
    while (at < from.length) {
      const { bytes, length } = this.#next(from, at);
      at += length;
      let first = 0;
      while (isAfterSpace && bytes[first] === SPACE) first++;
      if (first < bytes.length) {
        out.push(escapeSpaces ? escaped(bytes.subarray(first)) : bytes.subarray(first));
        isAfterSpace = bytes.at(-1) === SPACE;
      }
      if (!removeExtraSpaces) isAfterSpace = false;
    }
    let end = Buffer.concat(out);
    while (removeExtraSpaces && endsWith(end, space)) end = end.subarray(0, end.length - space.length);
    if (addDummyPrefix && spaceIsSuffix) end = Buffer.concat([end, space]);
    return end.toString('utf8');
  }

  /** What becomes of the next bytes, and how many those are. */
  #next(from: Buffer, at: number): { readonly bytes: Buffer; readonly length: number } {
    for (const kept of this.#kept.get(from[at] ?? 0) ?? []) {
      if (from.compare(kept, 0, kept.length, at, Math.min(from.length, at + kept.length)) === 0) {
        return { bytes: kept, length: kept.length };
      }
    }
    const mapped = this.#map?.longest(from, at);
    if (mapped) return mapped;
    const length = characterBytes(from[at] ?? 0);
    const bytes = from.subarray(at, at + length);
    return bytes.length === length ? { bytes, length } : { bytes: REPLACEMENT, length: 1 };
  }
}

function characterBytes(first: number): number {
  if (first < 0xc0) return 1;
  return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

function escaped(bytes: Buffer): Buffer {
  if (!bytes.includes(SPACE)) return bytes;
  return Buffer.from(bytes.toString('utf8').replaceAll(' ', '▁'));
}

function endsWith(bytes: Buffer, end: Buffer): boolean {
  return bytes.length >= end.length && bytes.subarray(bytes.length - end.length).equals(end);
}

/**
 * `precompiled_charsmap`: the size of a trie, the trie (a double array of darts-clone, 32 bits a unit), and the texts that its
 * values are places in.
 */
class CharsMap {
  readonly #units: Uint32Array;
  readonly #texts: Buffer;
  readonly #path: string;

  constructor(bytes: Uint8Array, path: string) {
    this.#path = path;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const trieBytes = bytes.length < 4 ? 0 : view.getUint32(0, true);
    if (trieBytes < 1024 || trieBytes % 4 !== 0 || 4 + trieBytes >= bytes.length) throw this.#damaged();
    this.#units = Uint32Array.from({ length: trieBytes / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.#texts = Buffer.from(bytes.subarray(4 + trieBytes));
  }

  /** What the longest run of bytes from `at` on that the map knows becomes. */
  longest(from: Buffer, at: number): { readonly bytes: Buffer; readonly length: number } | undefined {
    let found: { place: number; length: number } | undefined;
    let node = offsetOf(this.#unit(0));
    for (let i = at; i < from.length; i++) {
      const label = from[i] ?? 0;
      node ^= label;
      const unit = this.#units[node];
      // A byte that leads nowhere may lead out of the array.
      if (unit === undefined || (unit & 0x800000ff) >>> 0 !== label) break;
      node ^= offsetOf(unit);
      if ((unit >>> 8) & 1) found = { place: this.#unit(node) & 0x7fffffff, length: i + 1 - at };
    }
    if (!found) return undefined;
    const end = this.#texts.indexOf(0, found.place);
    if (found.place >= this.#texts.length || end < 0) throw this.#damaged();
    return { bytes: this.#texts.subarray(found.place, end), length: found.length };
  }

  #unit(node: number): number {
    const unit = this.#units[node];
    if (unit === undefined) throw this.#damaged();
    return unit;
  }

  #damaged(): OperatingError {
    return new OperatingError(
      'BAD_TOKENIZER',
      `${this.#path} holds a map of characters (precompiled_charsmap) that leads nowhere: compare the file with its source`,
    );
  }
}

function offsetOf(unit: number): number {
  return ((unit >>> 10) << ((unit & 0x200) >>> 6)) >>> 0;
}
