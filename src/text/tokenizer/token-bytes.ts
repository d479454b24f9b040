// What each token adds to a text, in bytes: what grammars need, as a token may hold half a character.

/** What the bytes of tokens depend on. */
export interface TokenBytesOptions {
  /** The decoder section of the tokenizer's file, as JSON. */
  readonly decoder: string;
  readonly nameOf: (id: number) => string | null;
  readonly isSpecial: (id: number) => boolean;
  readonly byteOf: (id: number) => number | undefined;
  readonly decode: (tokens: string[]) => string;
}

/** By the characters that byte-level vocabularies write for them. */
const BYTES_OF_CHARACTERS: ReadonlyMap<string, number> = (() => {
  const found = new Map<string, number>();
  let others = 0;
  for (let byte = 0; byte < 256; byte++) {
    const isShown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    found.set(String.fromCharCode(isShown ? byte : 256 + others++), byte);
  }
  return found;
})();

/** A word before each token, so that it is none at the beginning of a text, where spaces may be left out. */
const ANCHOR = 'a';

/** Undefined for ids that add nothing: special tokens, and those that the tokenizer does not know. */
export function tokenBytes(options: TokenBytesOptions): (id: number) => Uint8Array | undefined {
  const { decoder, nameOf, isSpecial, byteOf, decode } = options;
  const isByteLevel = decoder.includes('"ByteLevel"');
  const anchor = decode([ANCHOR]);
  return (id) => {
    const name = isSpecial(id) ? null : nameOf(id);
    if (name === null) return undefined;
    const byte = byteOf(id);
    if (byte !== undefined) return Uint8Array.of(byte);
    if (isByteLevel) return byteLevel(name) ?? Buffer.from(name);
    const both = decode([ANCHOR, name]);
    return Buffer.from(both.startsWith(anchor) ? both.slice(anchor.length) : both);
  };
}

/** Undefined for an added token, which is written as it is. */
function byteLevel(name: string): Uint8Array | undefined {
  const bytes: number[] = [];
  for (const character of name) {
    const byte = BYTES_OF_CHARACTERS.get(character);
    if (byte === undefined) return undefined;
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}
