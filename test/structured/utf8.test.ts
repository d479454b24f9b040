// Whatever a grammar allows is UTF-8: of a vocabulary of single bytes, and of pairs, only those that texts have.

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TokenConstraint } from '../../src/engine/request.js';
import { Grammars } from '../../src/structured/grammars.js';
import { isInNoText } from '../../src/structured/utf8.js';

const PAIRS = [
  [0xc3, 0xa9],
  [0xc0, 0xaf],
  [0xe0, 0x9f],
  [0x61, 0xe0],
  [0x80, 0x80],
  [0xa0, 0x80],
];
const STOP = 256;
const FIRST_PAIR = STOP + 1;

let grammars: Grammars;
beforeAll(() => {
  grammars = new Grammars({
    tokenizer: {
      bytesOf: (token) => Uint8Array.from(token < STOP ? [token] : (PAIRS[token - FIRST_PAIR] ?? [])),
    },
    vocabSize: FIRST_PAIR + PAIRS.length,
    stopTokens: [STOP],
    threads: 1,
  });
});
afterAll(() => grammars.close());

/** The tokens that may follow these. */
async function allowedAfter(schema: object, tokens: readonly number[]): Promise<Set<number>> {
  const constraint: TokenConstraint = await grammars.constraint({ kind: 'json_schema', schema } as never);
  try {
    let mask = await constraint.after([]);
    for (let count = 1; count <= tokens.length; count++)
      mask = await constraint.after(tokens.slice(0, count));
    const all = Array.from({ length: FIRST_PAIR + PAIRS.length }, (_, token) => token);
    return new Set(all.filter((token) => ((mask?.[token >> 5] ?? 0) >>> (token & 31)) & 1));
  } finally {
    constraint.close();
  }
}

const QUOTE = 0x22;
const SCHEMAS = [
  { type: 'string' },
  { type: 'string', maxLength: 9 },
  { type: 'string', pattern: '^[^a]{0,9}$' },
] as const;

describe.each(SCHEMAS)('%j', (schema) => {
  it('begins no character with a byte that begins none', async () => {
    const found = await allowedAfter(schema, [QUOTE]);
    const leads = [...found].filter((token) => token >= 0x80 && token < STOP);
    expect([Math.min(...leads), Math.max(...leads)]).toEqual([0xc2, 0xf4]);
    expect(found.has(FIRST_PAIR), 'é').toBe(true);
    expect(found.has(FIRST_PAIR + 1), 'an overlong /').toBe(false);
    expect(found.has(FIRST_PAIR + 2), 'an overlong beginning').toBe(false);
  });

  it.each([
    [0xc2, 0x80, 0xbf],
    [0xe0, 0xa0, 0xbf],
    [0xe1, 0x80, 0xbf],
    [0xed, 0x80, 0x9f],
    [0xf0, 0x90, 0xbf],
    [0xf4, 0x80, 0x8f],
  ])('goes on after %i from %i to %i alone', async (lead, first, last) => {
    const single = [...(await allowedAfter(schema, [QUOTE, lead]))].filter((token) => token < STOP);
    expect([single[0], single.at(-1), single.length]).toEqual([first, last, last - first + 1]);
  });
});

it('looks at the last byte of a longer token, and at the first of the next', async () => {
  const found = await allowedAfter(SCHEMAS[0], [QUOTE, FIRST_PAIR + 3]);
  expect(found.has(FIRST_PAIR + 4), 'overlong').toBe(false);
  expect(found.has(FIRST_PAIR + 5), 'U+0800').toBe(true);
});

it('says of bytes what a decoder says', () => {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  const isText = (bytes: Uint8Array) => {
    try {
      decoder.decode(bytes);
      return true;
    } catch {
      return false;
    }
  };
  for (let lead = 0xc0; lead <= 0xff; lead++) {
    for (let second = 0x80; second <= 0xbf; second++) {
      const length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
      const bytes = Uint8Array.from([lead, second, 0x80, 0x80].slice(0, length));
      expect(isInNoText(bytes), `${lead} ${second}`).toBe(!isText(bytes));
    }
  }
});
