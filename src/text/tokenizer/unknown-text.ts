// Characters without a piece, spelt in bytes where the core does not do it: pieces of bytes that no text can name.

import type { Encoding } from 'tokenizers';

/** A noncharacter, which stands in no text. */
const MARK = '\uFFFF';

/** What the core calls a piece that no text is cut to. */
export function hiddenName(piece: string): string {
  return `${MARK}${piece}`;
}

export function shownName(token: string): string {
  return token.startsWith(MARK) ? token.slice(MARK.length) : token;
}

/** The piece of a byte, as SentencePiece calls it. */
export function byteName(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
}

/** How unknown text is spelt. */
export interface UnknownText {
  readonly id: number;
  /** What names it in a text; that is no unknown text. */
  readonly name: string;
  /** Ids of the 256 bytes; undefined for those without one. */
  readonly bytes: readonly (number | undefined)[];
}

/** The ids of an encoding of `text`, with those of bytes in place of each unknown run whose bytes all have one. */
export function spellUnknown(encoding: Encoding, text: string, { id, name, bytes }: UnknownText): number[] {
  const ids = encoding.getIds();
  if (!ids.includes(id)) return ids;
  const offsets = encoding.getOffsets();
  const characters = [...text];
  return ids.flatMap((own, index) => {
    if (own !== id) return own;
    const run = characters.slice(...(offsets[index] ?? [0, 0])).join('');
    if (run.trim() === name) return own;
    const spelt = Array.from(Buffer.from(run), (byte) => bytes[byte] ?? id);
    return spelt.length === 0 || spelt.includes(id) ? own : spelt;
  });
}
