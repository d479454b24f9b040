// Tokenizer folders as bench/reference/make_tokenizers.py describes them, with what transformers makes of each.

import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { modelFolder } from './fixtures.js';
import { tempFolder } from './temp-folder.js';

interface AddedToken {
  readonly id: number;
  readonly content: string;
}

interface TokenizerJson {
  added_tokens: AddedToken[];
  post_processor: unknown;
  model: { vocab: Record<string, number>; merges: [string, string][] };
}

export interface TokenizerCase {
  readonly base: string;
  readonly files: Readonly<Record<string, Record<string, unknown>>>;
  readonly form: 'json' | 'merges' | 'pieces';
  readonly crlf?: boolean;
  readonly version?: boolean;
  readonly lastLineEnd?: boolean;
  readonly addedInVocab?: boolean;
  readonly noPostProcessor?: boolean;
  readonly sortedKeys?: boolean;
  readonly moreAdded?: AddedToken;
  readonly expected: {
    readonly class: string;
    readonly size: number;
    readonly named: Readonly<Record<string, string>>;
    readonly bos: number | null;
    readonly eos: number | null;
    readonly pad: number | null;
    readonly special: readonly number[];
    readonly texts: readonly {
      text: string;
      ids: number[];
      bare: number[];
      decoded: string;
      shown: string;
    }[];
  };
}

export function tokenizerCases(): TokenizerCase[] {
  const path = join(dirname(modelFolder('gpt2')), '..', 'text', 'tokenizer-cases.json');
  return JSON.parse(readFileSync(path, 'utf8'));
}

export function buildTokenizerFolder(one: TokenizerCase): string {
  const folder = tempFolder();
  const json: TokenizerJson = JSON.parse(readFileSync(join(modelFolder(one.base), 'tokenizer.json'), 'utf8'));
  const { vocab, merges } = json.model;
  const files: Record<string, unknown> = { ...one.files };
  if (one.form === 'merges') {
    const added = json.added_tokens.map(({ content, id }) => [content, id]);
    files['vocab.json'] = { ...vocab, ...(one.addedInVocab ? Object.fromEntries(added) : {}) };
    const lines = [...(one.version ? ['#version: 0.2'] : []), ...merges.map((merge) => merge.join(' '))];
    const end = one.crlf ? '\r\n' : '\n';
    writeFileSync(join(folder, 'merges.txt'), lines.join(end) + (one.lastLineEnd ? end : ''));
  } else if (one.form === 'pieces') {
    writeFileSync(join(folder, 'tokenizer.model'), pieceModel(vocab));
  } else {
    if (one.noPostProcessor) json.post_processor = null;
    if (one.moreAdded) json.added_tokens.push(one.moreAdded);
    files['tokenizer.json'] = one.sortedKeys ? sorted({ ...json, model: sorted(json.model) }) : json;
  }
  for (const [name, value] of Object.entries(files)) {
    writeFileSync(join(folder, name), JSON.stringify(value));
  }
  return folder;
}

function sorted(object: object): object {
  return Object.fromEntries(Object.entries(object).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** A ModelProto of SentencePiece with these pieces. */
function pieceModel(vocab: Readonly<Record<string, number>>): Buffer {
  const field = (key: number, bytes: Uint8Array) => Buffer.concat([varint(key), varint(bytes.length), bytes]);
  const pieces = Object.entries(vocab)
    .sort(([, a], [, b]) => a - b)
    .map(([piece, id]) => {
      const score = Buffer.alloc(5, 0x15);
      score.writeFloatLE(-id, 1);
      return field(0x0a, Buffer.concat([field(0x0a, Buffer.from(piece)), score, pieceType(piece)]));
    });
  // trainer_spec: model_type BPE and byte_fallback
  return Buffer.concat([...pieces, field(0x12, Uint8Array.of(0x18, 2, 0x98, 2, 1))]);
}

function pieceType(piece: string): Uint8Array {
  if (piece === '<unk>') return Uint8Array.of(0x18, 2);
  if (piece === '<s>' || piece === '</s>') return Uint8Array.of(0x18, 3);
  return piece.startsWith('<0x') ? Uint8Array.of(0x18, 6) : new Uint8Array();
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (; value > 127; value >>= 7) bytes.push((value & 127) | 128);
  return Buffer.from([...bytes, value]);
}
