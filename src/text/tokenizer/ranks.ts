// Reads tiktoken's ranks: a token per line, its bytes in base64 and its place; and makes the byte-level BPE of them.

import { OperatingError } from '../../../offload/index.js';
import { show } from '../../files/json-file.js';
import { byteLevel, PLAIN_BPE, type RankRules } from './classes.js';
import type { AddedToken, SpecialTokens } from './special-tokens.js';

/** GPT-2's characters for bytes: printable ones stand for themselves, the others are counted from 256 on. */
const CHARACTERS: readonly string[] = byteCharacters();

function byteCharacters(): string[] {
  const isPlain = (byte: number) =>
    (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || (byte > 173 && byte < 256);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPlain(byte) ? byte : next++));
}

export interface Ranks {
  /** Tokens as the byte-level BPE writes them, by place. */
  readonly tokens: readonly string[];
}

/** Throws BAD_TOKENIZER. */
export function readRanks(text: string, path: string): Ranks {
  const tokens: string[] = [];
  const seen = new Set<string>();
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    const [code = '', place = '', ...more] = line.trim().split(/\s+/);
    const wrong = (problem: string) =>
      new OperatingError(
        'BAD_TOKENIZER',
        `${path} has ${show(line.slice(0, 80))} on line ${index + 1}: ${problem}`,
      );
    if (more.length > 0 || !/^\d{1,9}$/.test(place)) {
      throw wrong('a line is a token in base64, a space and its place');
    }
    if (!/^[A-Za-z0-9+/]+={0,2}$/.test(code) || code.length % 4 !== 0) throw wrong('that is no base64');
    const token = Array.from(Buffer.from(code, 'base64'), (byte) => CHARACTERS[byte] ?? '').join('');
    if (seen.has(token)) throw wrong('that token is there twice');
    if (Number(place) !== tokens.length)
      throw wrong(`places follow each other, and ${tokens.length} is next`);
    seen.add(token);
    tokens.push(token);
  }
  const missing = CHARACTERS.findIndex((character) => !seen.has(character));
  if (missing < 0) return { tokens };
  throw new OperatingError(
    'BAD_TOKENIZER',
    `${path} has ${tokens.length} tokens and none for byte ${missing}, so not every text has tokens: compare the file with its ` +
      'source',
  );
}

/** A tokenizer.json without added tokens. */
export function rankJson({ tokens }: Ranks, { pattern, normalizer }: RankRules): string {
  const places = new Map(tokens.map((token, place) => [token, place] as const));
  const merges: [string, string][] = [];
  for (const token of tokens) {
    const found: [string, string, number, number][] = [];
    for (let at = 1; at < token.length; at++) {
      const [left, right] = [token.slice(0, at), token.slice(at)];
      const [first, second] = [places.get(left), places.get(right)];
      if (first !== undefined && second !== undefined) found.push([left, right, first, second]);
    }
    found.sort((a, b) => a[2] - b[2] || a[3] - b[3]);
    for (const [left, right] of found) merges.push([left, right]);
  }
  return JSON.stringify({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
        byteLevel(false, false),
      ],
    },
    post_processor: null,
    decoder: byteLevel(true),
    model: { ...PLAIN_BPE, type: 'BPE', ignore_merges: true, vocab: Object.fromEntries(places), merges },
  });
}

/** The tokens behind those of the file, without gaps: those that files name, and the class's own where they name none. */
export function withReserved(
  tokens: SpecialTokens,
  { tokens: { length: size } }: Ranks,
  { reserved }: RankRules,
): SpecialTokens {
  const own = reserved(size);
  const added = new Map(tokens.added);
  const last = Math.max(size + own.length - 1, ...added.keys());
  const named = new Set([...added.values()].map(({ content }) => content));
  for (let id = size; id <= last; id++) {
    const content = own[id - size] ?? `<|reserved_token_${id}|>`;
    if (added.has(id) || named.has(content)) continue;
    added.set(id, reservedToken(content));
  }
  return { ...tokens, added };
}

function reservedToken(content: string): AddedToken {
  return { content, special: true, lstrip: false, rstrip: false, normalized: false, singleWord: false };
}
