// What is no UTF-8, though the grammar library takes it for characters: overlong forms, surrogates, and what lies beyond U+10FFFF.

/** After these bytes, only some of those that continue a character make one: The Unicode Standard, table 3-7. */
const SECOND_BYTES: ReadonlyMap<number, readonly [first: number, last: number]> = new Map([
  [0xe0, [0xa0, 0xbf]],
  [0xed, [0x80, 0x9f]],
  [0xf0, [0x90, 0xbf]],
  [0xf4, [0x80, 0x8f]],
]);
const BITS_PER_WORD = 32;

/** Whether no text has these bytes one after the other. */
export function isInNoText(bytes: Uint8Array): boolean {
  return bytes.some((byte, at) => {
    if (byte === 0xc0 || byte === 0xc1 || byte >= 0xf5) return true;
    const second = SECOND_BYTES.get(byte);
    const next = bytes[at + 1];
    return second !== undefined && next !== undefined && (next < second[0] || next > second[1]);
  });
}

/** Which tokens go on with a character whose first byte ends the token before. */
export class SecondBytes {
  readonly #tokens: readonly Uint8Array[];
  readonly #masks = new Map<number, Uint32Array>();

  /** @param tokens the bytes of each */
  constructor(tokens: readonly Uint8Array[]) {
    this.#tokens = tokens;
  }

  /** Bits of tokens, as masks have them; undefined where any byte that continues a character may follow. */
  after(token: number): Uint32Array | undefined {
    const lead = this.#tokens[token]?.at(-1);
    const second = lead === undefined ? undefined : SECOND_BYTES.get(lead);
    if (lead === undefined || second === undefined) return undefined;
    const known = this.#masks.get(lead);
    if (known) return known;
    const mask = new Uint32Array(Math.ceil(this.#tokens.length / BITS_PER_WORD));
    for (const [next, [byte = 0]] of this.#tokens.entries()) {
      if (byte < second[0] || byte > second[1]) continue;
      const word = Math.floor(next / BITS_PER_WORD);
      mask[word] = (mask[word] ?? 0) | (1 << (next % BITS_PER_WORD));
    }
    this.#masks.set(lead, mask);
    return mask;
  }
}
