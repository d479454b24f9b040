// Many ids decoded piece by piece say what they say all at once, in every class of tokenizer.

import { expect, it } from 'vitest';
import { decodeLong } from '../../src/text/long-ids.js';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { modelFolder, shakespeareText } from '../helpers/fixtures.js';
import { randomFrom, randomInt } from '../helpers/random.js';
import { buildTokenizerFolder, tokenizerCases } from '../helpers/tokenizer-cases.js';

const TEXT = `${shakespeareText().slice(0, 1000)} naïve — “日本語のテキスト” 🎭🧵 ${'ß'.repeat(40)}`;

/** One of each class and form. */
const CASES = new Map(tokenizerCases().map((one) => [`${one.expected.class} ${one.form}`, one]));
const FOLDERS: [string, () => string][] = [
  ...['shakespeare-bloom', 'stories260K'].map((name): [string, () => string] => [
    name,
    () => modelFolder(name),
  ]),
  ...[...CASES].map(([name, one]): [string, () => string] => [name, () => buildTokenizerFolder(one)]),
];

it.each(FOLDERS)('of %s', async (_, folder) => {
  const tokenizer = await loadTokenizer(folder());
  const random = randomFrom(3);
  const drawn = Array.from({ length: 400 }, () => randomInt(random, tokenizer.vocabSize + 2));
  const all = Array.from({ length: tokenizer.vocabSize }, (_, id) => id);
  const bytes = all.filter((id) => tokenizer.byteOf(id) !== undefined);
  const runs = drawn.map((id) =>
    bytes.length > 0 && random() < 0.5 ? (bytes[randomInt(random, bytes.length)] as number) : id,
  );
  for (const ids of [await tokenizer.encode(TEXT), drawn, runs, [], drawn.slice(0, 3)]) {
    for (const skipSpecialTokens of [false, true]) {
      const whole = tokenizer.decode(ids, { skipSpecialTokens });
      expect(await decodeLong(tokenizer, ids, { skipSpecialTokens, pieceIds: 40 })).toBe(whole);
    }
  }
});
