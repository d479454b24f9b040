// Long texts become token ids piece by piece: the same ids as of the whole, in memory that does not grow with the text.
//
// A text may be cut where no token can reach across: between two kinds of characters that are neighbours in no token of
// the vocabulary, as a letter and the space after it. Merges never cross such a place, so the sides do not depend on each
// other. What splits and rewrites the text before merging looks a few characters around; so at each cut both sides are
// encoded together and apart, and the cut is taken where that makes no difference.

import { OperatingError } from '../../../offload/index.js';
import { GrowingNumbers } from '../../files/growing-numbers.js';
import { Turns } from '../../files/turns.js';
import type { Tokenizer } from './tokenizer.js';

type Encoder = Pick<Tokenizer, 'encode' | 'encodeBare' | 'decode' | 'vocabSize'>;

/** In characters: a piece takes milliseconds, and what the tokenizer notes of it some megabytes. */
const PIECE = 16 << 10;
/** What is looked at on either side of a cut. */
const CONTEXT = 192;
/** Places between the same kinds that are tried for a cut before the piece grows. */
const TRIES = 4;
/** What cannot be cut takes memory as a whole: more than that is no text. */
const MOST_UNCUT = 1 << 20;

/** From here on it is worth the looking for places to cut. */
export const LONG_TEXT_CHARACTERS = 4 * PIECE;

export interface LongTextOptions {
  readonly signal?: AbortSignal | undefined;
  /** After each piece, with the tokens so far. */
  readonly onProgress?: (tokens: number) => void;
  /** A text with more than that is refused where that is known: PROMPT_TOO_LONG. */
  readonly mostTokens?: number | undefined;
  /** Without special tokens around it. */
  readonly bare?: boolean;
  /** Characters of a piece; only tests have a reason for others. */
  readonly pieceCharacters?: number;
}

/** Ids of a text that comes in parts, with the special tokens around it. Throws what the tokenizer throws. */
export async function encodeLongText(
  tokenizer: Encoder,
  parts: AsyncIterable<string> | Iterable<string>,
  options: LongTextOptions = {},
): Promise<Int32Array> {
  const {
    signal,
    onProgress,
    bare = false,
    pieceCharacters = PIECE,
    mostTokens = Number.POSITIVE_INFINITY,
  } = options;
  const ids = new GrowingNumbers((length) => new Int32Array(length));
  let pairs: ReadonlySet<string> | undefined;
  let around: Around | undefined;
  let held = '';
  /** Characters in which a place to cut is looked for. */
  let reach = pieceCharacters;
  let isLong = false;
  const add = async (text: string) => {
    signal?.throwIfAborted();
    ids.append(await tokenizer.encodeBare(text));
    onProgress?.(ids.length);
    if (ids.length > mostTokens) throw tooLong(mostTokens);
  };
  for await (const part of parts) {
    held += part;
    isLong ||= held.length >= 4 * pieceCharacters;
    while (isLong && held.length >= reach + CONTEXT) {
      pairs ??= await neighboursOf(tokenizer);
      const cut = await findCut(tokenizer, held, reach, pairs);
      if (!cut) {
        if (reach > MOST_UNCUT) throw uncut();
        reach *= 2;
        continue;
      }
      const piece = held.slice(0, cut.end);
      around ??= bare ? { before: [], after: [] } : await aroundOf(tokenizer, piece);
      await add(piece);
      held = held.slice(cut.begin);
      reach = pieceCharacters;
    }
  }
  if (!around) return Int32Array.from(await (bare ? tokenizer.encodeBare(held) : tokenizer.encode(held)));
  await add(held);
  return joined(around, ids.values());
}

function tooLong(mostTokens: number): OperatingError {
  return new OperatingError(
    'PROMPT_TOO_LONG',
    `the prompt has more than ${mostTokens} tokens, and there is room for no more: shorten it, or give the model more context`,
  );
}

function uncut(): OperatingError {
  return new OperatingError(
    'BAD_INPUT',
    `the text has more than ${MOST_UNCUT} characters without a place where tokens must end, such as a space after a ` +
      'word: this is no text; break it into lines',
  );
}

interface Around {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/** The special tokens around every text. */
async function aroundOf(tokenizer: Encoder, text: string): Promise<Around> {
  const [whole, bare] = [await tokenizer.encode(text), await tokenizer.encodeBare(text)];
  for (let at = 0; at + bare.length <= whole.length; at++) {
    if (bare.every((id, index) => whole[at + index] === id)) {
      return { before: whole.slice(0, at), after: whole.slice(at + bare.length) };
    }
  }
  throw new Error('a text with special tokens around it is not the text with tokens before and after');
}

function joined({ before, after }: Around, ids: Int32Array): Int32Array {
  const all = new Int32Array(before.length + ids.length + after.length);
  all.set(before);
  all.set(ids, before.length);
  all.set(after, before.length + ids.length);
  return all;
}

interface Cut {
  /** Where the piece before it ends. */
  readonly end: number;
  /** Where the next piece begins: at `end`, or behind a space there, if every text begins as if after a space. */
  readonly begin: number;
}

const KINDS: readonly (readonly [string, RegExp])[] = [
  ['letter', /[\p{L}\p{M}]/u],
  ['number', /\p{N}/u],
  ['newline', /[\r\n]/],
  ['space', /\s/],
  ['sign', /[\p{P}\p{S}]/u],
];
/** What bytes that are no whole character are shown as. */
const PART = '\ufffd';

const known = new Map<string, string | undefined>();

/** Undefined for what no cut may touch. */
function kindOf(character: string): string | undefined {
  let kind = known.get(character);
  if (kind === undefined && !known.has(character)) {
    kind = KINDS.find(([, pattern]) => pattern.test(character))?.[0];
    known.set(character, kind);
  }
  return kind;
}

const neighbours = new WeakMap<Encoder, Promise<ReadonlySet<string>>>();

/** Kinds of characters that are neighbours in some token; found once for a tokenizer, since a vocabulary takes a second. */
function neighboursOf(tokenizer: Encoder): Promise<ReadonlySet<string>> {
  const known = neighbours.get(tokenizer) ?? findNeighbours(tokenizer);
  neighbours.set(tokenizer, known);
  return known;
}

async function findNeighbours({ vocabSize, decode }: Encoder): Promise<ReadonlySet<string>> {
  const pairs = new Set<string>();
  const turns = new Turns();
  for (let id = 0; id < vocabSize; id++) {
    if (turns.isOver) await turns.next();
    const characters = [...decode([id], { skipSpecialTokens: false })];
    for (let at = 1; at < characters.length; at++) {
      const sides = characters.slice(at - 1, at + 1).map((one) =>
        // A part of a character may be of any of these.
        one === PART ? ['letter', 'number', 'sign'] : [kindOf(one) ?? ''],
      );
      for (const one of sides[0] ?? []) for (const other of sides[1] ?? []) pairs.add(`${one} ${other}`);
    }
  }
  return pairs;
}

/** The last good place in the first `reach` characters. */
async function findCut(
  tokenizer: Encoder,
  text: string,
  reach: number,
  pairs: ReadonlySet<string>,
): Promise<Cut | undefined> {
  const tries = new Map<string, number>();
  for (let at = reach; at > CONTEXT; at--) {
    const [before, after] = [kindOf(text.charAt(at - 1)), kindOf(text.charAt(at))];
    if (before === undefined || after === undefined || before === after) continue;
    const pair = `${before} ${after}`;
    const tried = tries.get(pair) ?? 0;
    if (pairs.has(pair) || tried >= TRIES) continue;
    tries.set(pair, tried + 1);
    // What is looked at would not show where a longer run begins or ends.
    if (isLongRun(text, at - 1, -1, before) || isLongRun(text, at, 1, after)) continue;
    for (const begin of after === 'space' ? [at, at + 1] : [at]) {
      if (await isSafe(tokenizer, text, { end: at, begin })) return { end: at, begin };
    }
  }
  return undefined;
}

/** From there on in that direction, there is nothing but that kind as far as half the context reaches. */
function isLongRun(text: string, from: number, step: -1 | 1, kind: string): boolean {
  for (let done = 0; done < CONTEXT / 2; done++) {
    if (kindOf(text.charAt(from + done * step)) !== kind) return false;
  }
  return true;
}

async function isSafe(tokenizer: Encoder, text: string, { end, begin }: Cut): Promise<boolean> {
  const [from, to] = [wordStart(text, end - CONTEXT), wordStart(text, begin + CONTEXT)];
  const [whole, left, right] = await Promise.all(
    [text.slice(from, to), text.slice(from, end), text.slice(begin, to)].map((part) =>
      tokenizer.encodeBare(part),
    ),
  );
  const apart = [...(left ?? []), ...(right ?? [])];
  return whole?.length === apart.length && whole.every((id, index) => id === apart[index]);
}

/** No half of a surrogate pair at either end. */
function wordStart(text: string, at: number): number {
  const code = text.charCodeAt(at);
  return code >= 0xdc00 && code < 0xe000 ? at + 1 : at;
}
