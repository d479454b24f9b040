// SentencePiece's tokenizer.model as a tokenizer of the Rust core: by the rules of a class, or as SentencePiece itself cuts texts.

import type { JsonObject } from '../../files/json-file.js';
import { byteFallbackDecoder, PLAIN_BPE } from './classes.js';
import { PIECE_TYPES, type Piece, type PieceModel } from './sentencepiece-model.js';
import { PieceNormalizer } from './sentencepiece-normalizer.js';
import type { AddedToken } from './special-tokens.js';
import { hiddenName } from './unknown-text.js';

/** Control pieces, which are special, and pieces that the model's makers defined. */
export function definedPieces({ pieces }: PieceModel): AddedToken[] {
  const { control, userDefined } = PIECE_TYPES;
  return pieces
    .filter(({ type }) => type === control || type === userDefined)
    .map(({ text, type }) => ({
      content: text,
      special: type === control,
      lstrip: false,
      rstrip: false,
      normalized: false,
      singleWord: false,
    }));
}

export interface Words extends JsonObject {
  readonly vocab: Readonly<Record<string, number>>;
  readonly merges: readonly [string, string][];
}

/** Vocabulary and merges as transformers makes them: pieces in the order of their ids, short left halves first. */
export function wordsOf({ pieces }: PieceModel): Words {
  const ids = new Map(pieces.map(({ text }, id) => [text, id] as const));
  return { vocab: Object.fromEntries(ids), merges: mergesOf([...ids.keys()], (text) => ids.has(text)) };
}

/** Every way to put a piece together of two others. */
function mergesOf(ordered: readonly string[], has: (text: string) => boolean): [string, string][] {
  const merges: [string, string][] = [];
  for (const piece of ordered) {
    const characters = [...piece];
    for (let at = 1; at < characters.length; at++) {
      const left = characters.slice(0, at).join('');
      const right = characters.slice(at).join('');
      if (has(left) && has(right)) merges.push([left, right]);
    }
  }
  return merges;
}

/** A tokenizer.json without those of `added`, which are added to it: what comes to it is normalised already. */
export function pieceJson(model: PieceModel, added: readonly AddedToken[]): string {
  const { addDummyPrefix, spaceIsSuffix, escapeSpaces } = model.rules;
  const decoder = byteFallbackDecoder(false) as { readonly decoders: readonly JsonObject[] };
  const [spaces, bytes, fuse] = decoder.decoders;
  const strip = {
    type: 'Strip',
    content: ' ',
    start: spaceIsSuffix ? 0 : 1,
    stop: spaceIsSuffix ? 1 : 0,
  };
  return JSON.stringify({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        ...(escapeSpaces ? [spaces] : []),
        ...(model.byteFallback ? [bytes] : []),
        fuse,
        ...(addDummyPrefix ? [strip] : []),
      ],
    },
    model:
      model.algorithm === 'bpe'
        ? bpeOf(model)
        : unigramOf(model, new Set(added.map(({ content }) => content))),
  });
}

/** Merges make normal pieces only, those of high scores first. */
function bpeOf({ pieces, byteFallback, special }: PieceModel): JsonObject {
  const { normal, unused } = PIECE_TYPES;
  const mergeable = pieces.filter(({ type }) => type === normal || type === unused);
  const known = new Set(pieces.filter(({ type }) => type !== PIECE_TYPES.byte).map(({ text }) => text));
  const ordered = mergeable.toSorted((a, b) => b.score - a.score).map(({ text }) => text);
  return {
    ...PLAIN_BPE,
    type: 'BPE',
    unk_token: special.unk_token ?? null,
    fuse_unk: true,
    byte_fallback: byteFallback,
    vocab: Object.fromEntries(pieces.map(({ text }, id) => [text, id])),
    merges: mergesOf(ordered, (text) => known.has(text)),
  };
}

/**
 * The core would cut a text that says `<0x41>` to the byte of that name, and spells in bytes only by it. So these pieces have names
 * that no text has, and what the core finds unknown is spelt afterwards: see `UnknownText`.
 */
function unigramOf({ pieces, unkId }: PieceModel, added: ReadonlySet<string>): JsonObject {
  const { byte, unused } = PIECE_TYPES;
  const isHidden = ({ text, type }: Piece) => (type === byte || type === unused) && !added.has(text);
  return {
    type: 'Unigram',
    unk_id: unkId,
    vocab: pieces.map((piece) => [isHidden(piece) ? hiddenName(piece.text) : piece.text, piece.score]),
    byte_fallback: false,
  };
}

/** Normalises what lies between special tokens, each part as a text of its own. */
export function pieceTexts(
  model: PieceModel,
  tokens: readonly AddedToken[],
  path: string,
): (text: string) => string {
  const kept = tokens.filter(({ special }) => !special).map(({ content }) => content);
  const normalizer = new PieceNormalizer(model.rules, kept, path);
  const marks = tokens
    .filter(({ special, content }) => special && content !== '')
    .map(({ content }) => content)
    .sort((a, b) => b.length - a.length)
    .map((content) => content.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'));
  const between = marks.length > 0 ? new RegExp(`(${marks.join('|')})`) : undefined;
  return (text) =>
    (between ? text.split(between) : [text])
      .map((part, index) => (index % 2 === 1 ? part : normalizer.normalize(part)))
      .join('');
}
