// Whether bytes that come one by one may still become UTF-8 text.

/** A run of bytes up to some point. */
export class Utf8Run {
  /** Bytes that the character at the end still lacks. */
  readonly #missing: number;
  /** What the next byte may be, where one is missing. */
  readonly #least: number;
  readonly #most: number;
  /** No bytes that follow make it a text. */
  readonly isBroken: boolean;

  constructor(missing = 0, least = 0x80, most = 0xbf, isBroken = false) {
    this.#missing = missing;
    this.#least = least;
    this.#most = most;
    this.isBroken = isBroken;
  }

  with(byte: number): Utf8Run {
    if (this.isBroken) return this;
    if (this.#missing > 0) {
      return byte >= this.#least && byte <= this.#most ? new Utf8Run(this.#missing - 1) : BROKEN;
    }
    if (byte < 0x80) return this;
    // Table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF.
    if (byte >= 0xc2 && byte <= 0xdf) return new Utf8Run(1);
    if (byte >= 0xe0 && byte <= 0xef) {
      return new Utf8Run(2, byte === 0xe0 ? 0xa0 : 0x80, byte === 0xed ? 0x9f : 0xbf);
    }
    if (byte >= 0xf0 && byte <= 0xf4) {
      return new Utf8Run(3, byte === 0xf0 ? 0x90 : 0x80, byte === 0xf4 ? 0x8f : 0xbf);
    }
    return BROKEN;
  }
}

const BROKEN = new Utf8Run(0, 0, 0, true);
