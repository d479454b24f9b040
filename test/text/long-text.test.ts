// A long text, encoded piece by piece, has the ids of the whole, whatever the tokenizer does with spaces and words.

import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { encodeLongText } from '../../src/text/tokenizer/long-text.js';
import { loadTokenizer, type Tokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { modelFolder, shakespeareText } from '../helpers/fixtures.js';
import { randomFrom, randomInt } from '../helpers/random.js';
import { tempFolder } from '../helpers/temp-folder.js';

/** A fixture's tokenizer with some of its steps replaced. */
async function tokenizerOf(model: string, steps: Readonly<Record<string, unknown>> = {}): Promise<Tokenizer> {
  const folder = tempFolder();
  for (const name of ['tokenizer_config.json', 'config.json']) {
    cpSync(join(modelFolder(model), name), join(folder, name));
  }
  const json = JSON.parse(readFileSync(join(modelFolder(model), 'tokenizer.json'), 'utf8'));
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify({ ...json, ...steps }));
  return loadTokenizer(folder);
}

const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
const split = (Regex: string) => ({
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [{ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false }, bytes],
  },
});

const TOKENIZERS: readonly (readonly [string, string, Readonly<Record<string, unknown>>])[] = [
  ['bloom', 'shakespeare-bloom', {}],
  ['SentencePiece', 'stories260K', {}],
  ['gpt2', 'gpt2', { pre_tokenizer: { ...bytes, use_regex: true } }],
  [
    'gpt2 with a space before the text',
    'gpt2',
    { pre_tokenizer: { ...bytes, add_prefix_space: true, use_regex: true } },
  ],
  [
    'llama 3',
    'llama3-rope',
    split(
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    ),
  ],
  ['words that are not split', 'shakespeare-bloom', { pre_tokenizer: bytes }],
  ['NFKC', 'shakespeare-bloom', { normalizer: { type: 'NFKC' } }],
  [
    'lower case, stripped',
    'shakespeare-bloom',
    {
      normalizer: {
        type: 'Sequence',
        normalizers: [{ type: 'Lowercase' }, { type: 'Strip', strip_left: true, strip_right: true }],
      },
    },
  ],
];

const random = randomFrom(77);
const ODD = [
  '  ',
  '\n\n',
  '\t',
  ' \n ',
  '…',
  '!!!',
  "don't",
  '12345',
  '日本語 漢字',
  'ﬁ é',
  'e\u0301',
  '😀😀',
  '<s>',
  '</s>',
  '\u00a0',
  'x'.repeat(90),
];

/** Text with all that may stand beside a cut. */
function oddText(length: number): string {
  const words = shakespeareText()
    .slice(0, 50_000)
    .split(/(?<= )/);
  let text = '';
  while (text.length < length) {
    const odd = randomInt(random, 4) === 0;
    text += odd ? ODD[randomInt(random, ODD.length)] : words[randomInt(random, words.length)];
  }
  return text;
}

function* partsOf(text: string): Generator<string, void> {
  for (let at = 0; at < text.length; at += 1000) yield text.slice(at, at + 1000);
}

describe('long texts', () => {
  it.each(TOKENIZERS)('%s', async (_, model, steps) => {
    const tokenizer = await tokenizerOf(model, steps);
    let longest = 0;
    const watched = {
      ...tokenizer,
      encodeBare: (text: string) => {
        longest = Math.max(longest, text.length);
        return tokenizer.encodeBare(text);
      },
    };
    for (const text of [shakespeareText().slice(0, 120_000), oddText(60_000)]) {
      longest = 0;
      const whole = await tokenizer.encode(text);
      const pieces = await encodeLongText(watched, partsOf(text), { pieceCharacters: 3000 });
      expect([...pieces]).toEqual(whole);
      expect(longest).toBeLessThan(10_000);
    }
  });

  it('a text without a place to cut, and a short one, are encoded whole', async () => {
    const tokenizer = await loadTokenizer(modelFolder('shakespeare-bloom'));
    for (const text of ['x'.repeat(20_000), '日'.repeat(9000), 'short', '']) {
      const pieces = await encodeLongText(tokenizer, partsOf(text), { pieceCharacters: 1000 });
      expect([...pieces]).toEqual(await tokenizer.encode(text));
    }
  });

  it('is cut wherever its language lets it', async () => {
    const tokenizer = await tokenizerOf('gpt2', { pre_tokenizer: { ...bytes, use_regex: true } });
    const text = '吾輩は猫である。名前はまだ無い。\nどこで生れたかとんと見当がつかぬ、12人。'.repeat(300);
    let longest = 0;
    const encodeBare = (piece: string) => {
      longest = Math.max(longest, piece.length);
      return tokenizer.encodeBare(piece);
    };
    const pieces = await encodeLongText({ ...tokenizer, encodeBare }, [text], { pieceCharacters: 1000 });
    expect([...pieces]).toEqual(await tokenizer.encode(text));
    expect(longest).toBeLessThan(3000);
  });

  it('is refused where there is no place for a million characters', async () => {
    const tokenizer = await loadTokenizer(modelFolder('shakespeare-bloom'));
    const encodeBare = async () => expect.unreachable('nothing is encoded');
    await expect(encodeLongText({ ...tokenizer, encodeBare }, ['x'.repeat(5e6)])).rejects.toThrow(
      /more than 1048576 characters without a place where tokens must end/,
    );
  });

  it('ends between two pieces when it is told to', async () => {
    const tokenizer = await loadTokenizer(modelFolder('shakespeare-bloom'));
    const controller = new AbortController();
    const onProgress = () => controller.abort(new Error('enough'));
    const options = { signal: controller.signal, onProgress, pieceCharacters: 1000 };
    await expect(encodeLongText(tokenizer, partsOf(oddText(9000)), options)).rejects.toThrow('enough');
  });
});
