// Reads the pieces of SentencePiece's tokenizer.model (a protocol buffer), and makes the merges of a BPE of them.

import { OperatingError } from '../../../offload/index.js';
import type { AddedToken } from './special-tokens.js';

export interface PieceVocabulary {
  readonly vocab: Record<string, number>;
  readonly merges: readonly [string, string][];
  /** Control pieces, which are special, and pieces that the model's makers defined. */
  readonly extra: readonly AddedToken[];
}

interface Piece {
  readonly text: string;
  readonly type: number;
}

/** SentencePiece.Type of sentencepiece_model.proto. */
const CONTROL = 3;
const USER_DEFINED = 4;
const NORMAL = 1;

/** Throws BAD_TOKENIZER for a file that is none of SentencePiece. */
export function readPieces(bytes: Uint8Array, path: string): PieceVocabulary {
  let pieces: Piece[];
  try {
    pieces = [...fieldsOf(bytes)].filter(({ field }) => field === 1).map(({ bytes }) => pieceOf(bytes));
    if (pieces.length === 0) throw new Error('it has no pieces');
  } catch (error) {
    throw new OperatingError(
      'BAD_TOKENIZER',
      `${path} is no SentencePiece model (${error instanceof Error ? error.message : error}): save the tokenizer in ` +
        'its fast format (AutoTokenizer … save_pretrained writes it)',
      { cause: error },
    );
  }
  const ids = new Map(pieces.map(({ text }, id) => [text, id] as const));
  const extra = pieces
    .filter(({ type }) => type === CONTROL || type === USER_DEFINED)
    .map(({ text, type }) => ({
      content: text,
      special: type === CONTROL,
      lstrip: false,
      rstrip: false,
      normalized: false,
      singleWord: false,
    }));
  return { vocab: Object.fromEntries(ids), merges: mergesOf(ids), extra };
}

/** Every way to put a piece together of two others; pieces in the order of their ids, short left halves first. */
function mergesOf(ids: ReadonlyMap<string, number>): [string, string][] {
  const merges: [string, string][] = [];
  for (const [piece] of [...ids].sort(([, a], [, b]) => a - b)) {
    const characters = [...piece];
    for (let at = 1; at < characters.length; at++) {
      const left = characters.slice(0, at).join('');
      const right = characters.slice(at).join('');
      if (ids.has(left) && ids.has(right)) merges.push([left, right]);
    }
  }
  return merges;
}

function pieceOf(bytes: Uint8Array): Piece {
  let text = '';
  let type = NORMAL;
  for (const { field, bytes: value, number } of fieldsOf(bytes)) {
    if (field === 1) text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(value);
    if (field === 3) type = number;
  }
  return { text, type };
}

interface Field {
  readonly field: number;
  readonly bytes: Uint8Array;
  readonly number: number;
}

/** The fields of one message, one after the other. */
function* fieldsOf(bytes: Uint8Array): Iterable<Field> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined || scale > 2 ** 63) throw new Error('it ends within a field');
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const [field, wire] = [Math.floor(key / 8), key % 8];
    let [length, number] = [0, 0];
    if (wire === 0) number = varint();
    else if (wire === 1) length = 8;
    else if (wire === 2) length = varint();
    else if (wire === 5) length = 4;
    else throw new Error(`it has a field of wire type ${wire}`);
    if (at + length > bytes.length) throw new Error('it ends within a field');
    yield { field, bytes: bytes.subarray(at, at + length), number };
    at += length;
  }
}
