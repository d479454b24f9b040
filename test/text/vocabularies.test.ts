// Vocabularies without a tokenizer.json: SentencePiece's models and tiktoken's ranks, with the ids that their own programs make.

import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { encodeLongText } from '../../src/text/tokenizer/long-text.js';
import { checkTokenizerFiles, hasTokenizer } from '../../src/text/tokenizer/settings.js';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { vocabularyCases, vocabularyFolder } from '../helpers/vocabulary-cases.js';

const CASES = vocabularyCases();
const withOptions = (wanted: Readonly<Record<string, unknown>>) =>
  present(
    CASES.find(({ options }) => Object.entries(wanted).every(([key, value]) => options[key] === value)),
    JSON.stringify(wanted),
  );
const KIMI = withOptions({ ranks: 'tiktoken.model' });
const HUNYUAN = withOptions({ ranks: 'hy.tiktoken' });
const UNIGRAM = withOptions({ model_type: 'unigram' });

const titled = CASES.map((one, index) => {
  const { ranks, model_type: type, byte_fallback: bytes, remove_extra_whitespaces: removes } = one.options;
  const what = ranks ?? `${type}${bytes ? ', bytes' : ''}${removes ? ', spaces removed' : ''}`;
  return [`${index}: ${what}`, one] as const;
});

describe.each(titled)('%s', (_title, one) => {
  it('has the ids of its own program', async () => {
    const folder = vocabularyFolder(one);
    expect(await hasTokenizer(folder)).toBe(true);
    expect(await checkTokenizerFiles(folder)).toBe(true);
    const tokenizer = await loadTokenizer(folder);
    for (const { text, ids } of one.texts) expect(await tokenizer.encodeBare(text), text).toEqual(ids);
    const batch = await tokenizer.encodeBatch(one.texts.map(({ text }) => text));
    expect(batch).toEqual(one.texts.map(({ ids }) => ids));
  });
});

it('texts come back as they were, but for what the rules remove', async () => {
  for (const one of [
    KIMI,
    withOptions({ model_type: 'bpe', byte_fallback: true, remove_extra_whitespaces: false }),
  ]) {
    const tokenizer = await loadTokenizer(vocabularyFolder(one));
    for (const text of [' two  spaces\n', 'ö 日本 🙂', '12 + 3']) {
      expect(tokenizer.decode(await tokenizer.encodeBare(text))).toBe(text);
    }
  }
});

it('bytes are those of characters without a piece, not of a text that names one', async () => {
  const spelt = [{ model_type: 'unigram' }, { model_type: 'bpe' }].map((type) =>
    withOptions({ ...type, byte_fallback: true }),
  );
  for (const one of spelt) {
    const tokenizer = await loadTokenizer(vocabularyFolder(one));
    const ids = await tokenizer.encodeBare('x<0x41>🙂');
    const bytes = ids.flatMap((id) => tokenizer.byteOf(id) ?? []);
    expect(Buffer.from(bytes).toString()).toContain('🙂');
    expect(bytes).not.toContain(0x41);
    expect(tokenizer.decode(ids).trim()).toBe('x<0x41>🙂');
    expect(await tokenizer.encodeBatch(['<0x41>'])).toEqual([await tokenizer.encode('<0x41>')]);
  }
});

it('long texts are cut without a change', async () => {
  const piece = readFileSync(new URL('../fixtures/text/tinyshakespeare.txt', import.meta.url), 'utf8').slice(
    0,
    12_000,
  );
  for (const one of [KIMI, UNIGRAM]) {
    const tokenizer = await loadTokenizer(vocabularyFolder(one));
    const ids = await encodeLongText(tokenizer, [piece], { bare: true, pieceCharacters: 2000 });
    expect([...ids]).toEqual(await tokenizer.encodeBare(piece));
  }
});

describe('special tokens', () => {
  it("Kimi's are those of tokenizer_config.json, and reserved ones between them", async () => {
    const tokenizer = await loadTokenizer(vocabularyFolder(KIMI));
    const size = tokenizer.vocabSize - 256;
    expect(tokenizer.bosTokenId).toBe(size);
    expect(tokenizer.eosTokenIds).toEqual([size + 1]);
    expect(tokenizer.padTokenId).toBe(size + 255);
    expect(await tokenizer.encodeBare(`<|reserved_token_${size + 2}|>`)).toEqual([size + 2]);
    expect(tokenizer.decode([size, size + 7])).toBe('<sep>');
  });

  it("Hunyuan's are its own", async () => {
    const tokenizer = await loadTokenizer(vocabularyFolder(HUNYUAN));
    const size = tokenizer.vocabSize - 210;
    expect(await tokenizer.encodeBare('<|endoftext|><|bos|><|extra_204|>')).toEqual([
      size,
      size + 2,
      size + 209,
    ]);
    expect(tokenizer.eosTokenIds).toEqual([size + 3]);
  });

  it('a model of SentencePiece names its own where no file does', async () => {
    const folder = vocabularyFolder(UNIGRAM);
    const tokenizer = await loadTokenizer(folder);
    expect([tokenizer.bosTokenId, tokenizer.eosTokenIds]).toEqual([1, [2]]);
    expect(await tokenizer.encode('To be')).toEqual(await tokenizer.encodeBare('To be'));
    writeFileSync(join(folder, 'tokenizer_config.json'), '{"add_bos_token": true, "eos_token": "<unk>"}');
    const other = await loadTokenizer(folder);
    expect((await other.encode('To be')).slice(0, 1)).toEqual([1]);
    expect(other.eosTokenIds).toEqual([0]);
    // Each side of a special token is a text of its own.
    const [bare, both] = [await other.encodeBare('To be'), await other.encodeBare('To be<s>To be')];
    expect(both).toEqual([...bare, 1, ...bare]);
  });
});

describe('damage is told of', () => {
  const path = (folder: string, name: string) => join(folder, name);
  const ranks = Buffer.from(present(KIMI.files['tiktoken.model'], 'ranks'), 'base64').toString();

  it.each([
    [
      'a place that is none',
      (text: string) => text.replace(' 7\n', ' x\n'),
      /on line 8: a line is a token in base64/,
    ],
    [
      'a place that is left out',
      (text: string) => text.replace(/^.* 7\n/m, ''),
      /on line 8: places follow each other, and 7 is next/,
    ],
    [
      'a token twice',
      (text: string) => text.replace(/^.* 9$/m, 'AA== 9'),
      /on line 10: that token is there twice/,
    ],
    ['no base64', (text: string) => text.replace(/^.* 9$/m, 'A 9'), /on line 10: that is no base64/],
    [
      'a byte without a token',
      (text: string) => text.split('\n').slice(0, 40).join('\n'),
      /has 40 tokens and none for byte 40/,
    ],
  ] as const)('ranks with %s', async (_what, change, message) => {
    const folder = vocabularyFolder(KIMI);
    writeFileSync(path(folder, 'tiktoken.model'), change(ranks));
    await expect(loadTokenizer(folder)).rejects.toMatchObject({
      code: 'BAD_TOKENIZER',
      message: expect.stringMatching(message),
    });
  });

  it('ranks of a class whose rules are not known', async () => {
    const folder = vocabularyFolder(KIMI);
    writeFileSync(
      path(folder, 'tokenizer_config.json'),
      '{"tokenizer_class": "OtherTokenizer", "auto_map": {"AutoTokenizer": ["x.OtherTokenizer", null]}}',
    );
    writeFileSync(path(folder, 'config.json'), '{"model_type": "other"}');
    await expect(checkTokenizerFiles(folder)).rejects.toMatchObject({ code: 'UNSUPPORTED' });
  });

  it('a model that is cut, that has another algorithm, or an empty piece', async () => {
    const folder = vocabularyFolder(UNIGRAM);
    const file = path(folder, 'tokenizer.model');
    const whole = readFileSync(file);
    writeFileSync(file, whole.subarray(0, 700));
    await expect(loadTokenizer(folder)).rejects.toThrow(/no SentencePiece model/);
    // A second trainer_spec counts in place of the first: model_type WORD.
    writeFileSync(file, Buffer.concat([whole, Buffer.from([0x12, 2, 0x18, 3])]));
    await expect(loadTokenizer(folder)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(/cuts texts by word: supported are unigram and bpe/),
    });
    writeFileSync(file, Buffer.concat([whole, Buffer.from([0x0a, 2, 0x0a, 0])]));
    await expect(loadTokenizer(folder)).rejects.toThrow(/piece \d+ is empty/);
    // normalizer_spec with a map of characters of five bytes
    writeFileSync(file, Buffer.concat([whole, Buffer.from([0x1a, 7, 0x12, 5, 1, 0, 0, 0, 0])]));
    await expect(loadTokenizer(folder)).rejects.toMatchObject({
      code: 'BAD_TOKENIZER',
      message: expect.stringMatching(/map of characters/),
    });
    rmSync(file);
    await expect(checkTokenizerFiles(folder)).rejects.toThrow(/needs tokenizer.json or tokenizer.model/);
  });
});
