// Reads SentencePiece's tokenizer.model, a protocol buffer: its pieces, and how texts are normalised before they are cut.

import { OperatingError } from '../../../offload/index.js';

/** SentencePiece.Type of sentencepiece_model.proto. */
export const PIECE_TYPES = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export interface Piece {
  readonly text: string;
  readonly score: number;
  readonly type: number;
}

export interface PieceModel {
  readonly pieces: readonly Piece[];
  readonly algorithm: 'unigram' | 'bpe';
  readonly unkId: number;
  /** Characters without a piece are spelt in bytes. */
  readonly byteFallback: boolean;
  /** Special pieces by role; undefined for those that the model has not. */
  readonly special: Readonly<Record<'bos_token' | 'eos_token' | 'unk_token', string | undefined>>;
  readonly rules: NormalizerRules;
}

/** NormalizerSpec, and what of TrainerSpec concerns texts. */
export interface NormalizerRules {
  /** Empty: characters stay as they are. */
  readonly charsMap: Uint8Array;
  readonly addDummyPrefix: boolean;
  /** Where the added space stands at the end of a text. */
  readonly spaceIsSuffix: boolean;
  readonly removeExtraSpaces: boolean;
  readonly escapeSpaces: boolean;
}

const ALGORITHMS: Readonly<Record<number, string>> = { 1: 'unigram', 2: 'bpe', 3: 'word', 4: 'char' };
const TRAINER = {
  algorithm: 3,
  spaceIsSuffix: 24,
  byteFallback: 35,
  unkId: 40,
  bosId: 41,
  eosId: 42,
} as const;
const TRAINER_PIECES = { unk: 45, bos: 46, eos: 47 } as const;
const RULES = { charsMap: 2, addDummyPrefix: 3, removeExtraSpaces: 4, escapeSpaces: 5 } as const;

/** Throws BAD_TOKENIZER for a file that is none of SentencePiece, UNSUPPORTED for one that cuts texts in other ways. */
export function readPieceModel(bytes: Uint8Array, path: string): PieceModel {
  try {
    return modelOf(bytes, path);
  } catch (error) {
    if (error instanceof OperatingError) throw error;
    throw new OperatingError(
      'BAD_TOKENIZER',
      `${path} is no SentencePiece model (${error instanceof Error ? error.message : error}): save the tokenizer in ` +
        'its fast format (AutoTokenizer … save_pretrained writes it)',
      { cause: error },
    );
  }
}

function modelOf(bytes: Uint8Array, path: string): PieceModel {
  const pieces: Piece[] = [];
  let trainer = new Message(new Uint8Array());
  let rules = new Message(new Uint8Array());
  for (const { field, bytes: value } of fieldsOf(bytes)) {
    if (field === 1) pieces.push(pieceOf(value));
    if (field === 2) trainer = new Message(value);
    if (field === 3) rules = new Message(value);
  }
  if (pieces.length === 0) throw new Error('it has no pieces');
  const seen = new Set<string>();
  for (const [id, { text }] of pieces.entries()) {
    if (text === '') throw new Error(`piece ${id} is empty`);
    if (seen.has(text)) throw new Error(`piece ${id} is there twice`);
    seen.add(text);
  }
  const number = trainer.number(TRAINER.algorithm, 1);
  const algorithm = ALGORITHMS[number];
  if (algorithm !== 'unigram' && algorithm !== 'bpe') {
    throw new OperatingError(
      'UNSUPPORTED',
      `${path} cuts texts by ${algorithm ?? `algorithm ${number}`}: supported are unigram and bpe`,
    );
  }
  const unkId = trainer.number(TRAINER.unkId, 0);
  if (algorithm === 'unigram' && pieces[unkId] === undefined) {
    throw new Error(`unk_id is ${unkId} and it has ${pieces.length} pieces`);
  }
  const special = (id: number, piece: number, fallback: string) =>
    id >= 0 && id < pieces.length ? trainer.text(piece) || fallback : undefined;
  return {
    pieces,
    algorithm,
    unkId,
    byteFallback: trainer.flag(TRAINER.byteFallback, false),
    special: {
      bos_token: special(trainer.number(TRAINER.bosId, 1), TRAINER_PIECES.bos, '<s>'),
      eos_token: special(trainer.number(TRAINER.eosId, 2), TRAINER_PIECES.eos, '</s>'),
      unk_token: special(unkId, TRAINER_PIECES.unk, '<unk>'),
    },
    rules: {
      charsMap: rules.bytes(RULES.charsMap),
      addDummyPrefix: rules.flag(RULES.addDummyPrefix, true),
      spaceIsSuffix: trainer.flag(TRAINER.spaceIsSuffix, false),
      removeExtraSpaces: rules.flag(RULES.removeExtraSpaces, true),
      escapeSpaces: rules.flag(RULES.escapeSpaces, true),
    },
  };
}

function pieceOf(bytes: Uint8Array): Piece {
  const message = new Message(bytes);
  return { text: message.text(1), score: message.float(2), type: message.number(3, PIECE_TYPES.normal) };
}

/** Half of all values are of negative numbers, which take ten bytes. */
const NEGATIVE = 2 ** 63;

/** The fields of a message by number; the last of each counts. */
class Message {
  readonly #fields: ReadonlyMap<number, Field>;

  constructor(bytes: Uint8Array) {
    this.#fields = new Map(Array.from(fieldsOf(bytes), (field) => [field.field, field] as const));
  }

  bytes(field: number): Uint8Array {
    return this.#fields.get(field)?.bytes ?? new Uint8Array();
  }

  text(field: number): string {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(this.bytes(field));
  }

  float(field: number): number {
    const bytes = this.bytes(field);
    if (bytes.length === 0) return 0;
    if (bytes.length !== 4) throw new Error('it has a score that is none');
    const score = new DataView(bytes.buffer, bytes.byteOffset, 4).getFloat32(0, true);
    if (!Number.isFinite(score)) throw new Error('it has a score that is no number');
    return score;
  }

  number(field: number, otherwise: number): number {
    const value = this.#fields.get(field)?.number ?? otherwise;
    return value >= NEGATIVE ? -1 : value;
  }

  flag(field: number, otherwise: boolean): boolean {
    return this.number(field, Number(otherwise)) !== 0;
  }
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
