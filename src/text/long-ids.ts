// Texts of many token ids, decoded piece by piece: the same text as of all at once, and others get their turn in between.
//
// What an id says depends on its neighbours alone: the first of a text may lose its space, and several may be one character. So
// a piece is decoded behind some ids of the one before, and what these say by themselves is left out. It begins where that
// leaves out whole characters, and not within a run of ids that stand for bytes, all of which are characters, or none is.

import { Turns } from '../files/turns.js';
import type { Tokenizer } from './tokenizer/tokenizer.js';

type Decoder = Pick<Tokenizer, 'decode' | 'byteOf'>;

const PIECE = 2048;
const CONTEXT = 16;
const REPLACEMENT = '\ufffd';

export interface LongIdsOptions {
  readonly skipSpecialTokens: boolean;
  /** Ids of a piece; only tests have a reason for others. */
  readonly pieceIds?: number;
}

export async function decodeLong(
  decoder: Decoder,
  ids: ArrayLike<number>,
  { skipSpecialTokens, pieceIds = PIECE }: LongIdsOptions,
): Promise<string> {
  const decode = (begin: number, end: number) =>
    decoder.decode(Array.prototype.slice.call(ids, begin, end), { skipSpecialTokens });
  const turns = new Turns();
  const texts: string[] = [];
  let begin = 0;
  /** What the ids before the piece say by themselves. */
  let before = '';
  for (let from = 0; ; ) {
    const cut = await findCut({ decoder, ids, decode, turns }, begin + pieceIds);
    const text = decode(from, cut?.at ?? ids.length);
    if (!text.startsWith(before)) throw new Error('ids that are decoded behind others say what they said');
    texts.push(text.slice(before.length));
    if (!cut) return texts.join('');
    [begin, from, before] = [cut.at, cut.at - CONTEXT, cut.before];
    if (turns.isOver) await turns.next();
  }
}

interface Cut {
  readonly at: number;
  readonly before: string;
}

interface Looking {
  readonly decoder: Decoder;
  readonly ids: ArrayLike<number>;
  readonly decode: (begin: number, end: number) => string;
  readonly turns: Turns;
}

/** The first good place from there on. */
async function findCut({ decoder, ids, decode, turns }: Looking, first: number): Promise<Cut | undefined> {
  // What says nothing hides whether bytes lie on both sides of it.
  const isApart = (at: number) =>
    decoder.byteOf(ids[at] as number) === undefined && decode(at, at + 1) !== '';
  for (let at = Math.max(first, CONTEXT); at + CONTEXT < ids.length; at++) {
    if (turns.isOver) await turns.next();
    if (![at - CONTEXT, at - 1, at].every(isApart)) continue;
    const before = decode(at - CONTEXT, at);
    const both = decode(at - CONTEXT, at + CONTEXT);
    const isWhole = before !== '' && both !== before && !before.endsWith(REPLACEMENT);
    if (isWhole && both.startsWith(before) && both[before.length] !== REPLACEMENT) return { at, before };
  }
  return undefined;
}
