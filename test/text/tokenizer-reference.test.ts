// Tokenizers as transformers makes them of the same files: class by class, form by form, wherever tokens are named.

import { appendFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  checkTokenizerFiles,
  hasTokenizer,
  readTokenizerSettings,
  specialTokensOf,
} from '../../src/text/tokenizer/settings.js';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { tempFolder } from '../helpers/temp-folder.js';
import { buildTokenizerFolder, type TokenizerCase, tokenizerCases } from '../helpers/tokenizer-cases.js';

const CASES = tokenizerCases();

describe.each(CASES.map((one, index): [string, TokenizerCase] => [titleOf(one, index), one]))(
  '%s',
  (_title, one) => {
    test('ids, special tokens and texts', async () => {
      const folder = buildTokenizerFolder(one);
      const { expected } = one;
      const tokenizer = await loadTokenizer(folder);
      const { named } = specialTokensOf(await readTokenizerSettings(folder));
      expect(Object.fromEntries([...named].map(([role, { content }]) => [role, content]))).toEqual(
        expected.named,
      );
      expect(tokenizer).toMatchObject({
        vocabSize: expected.size,
        bosTokenId: expected.bos ?? undefined,
        eosTokenIds: expected.eos === null ? [] : [expected.eos],
        padTokenId: expected.pad ?? undefined,
      });
      const ids = Array.from({ length: expected.size }, (_, id) => id);
      const hides = (id: number) =>
        tokenizer.decode([id]) === '' && tokenizer.decode([id], { skipSpecialTokens: false }) !== '';
      expect(ids.filter(hides)).toEqual(expected.special);
      for (const { text, ids, bare, decoded, shown } of expected.texts) {
        expect(await tokenizer.encode(text), text).toEqual(ids);
        expect(await tokenizer.encodeBare(text), text).toEqual(bare);
        expect(tokenizer.decode(bare, { skipSpecialTokens: false }), text).toBe(decoded);
        expect(tokenizer.decode(bare), text).toBe(shown);
      }
      expect(await tokenizer.encodeBatch(expected.texts.map(({ text }) => text))).toEqual(
        expected.texts.map(({ ids }) => ids),
      );
      expect(await checkTokenizerFiles(folder)).toBe(true);
    });
  },
);

function titleOf({ expected, form, files }: TokenizerCase, index: number): string {
  return `${index}: ${expected.class} from ${form} (${Object.keys(files).length} small files)`;
}

test('every class and form is among them', () => {
  const kinds = new Set(CASES.map(({ expected, form }) => `${expected.class} ${form}`));
  for (const kind of [
    'GPT2Tokenizer merges',
    'LlamaTokenizer pieces',
    'LlamaTokenizer json',
    'GemmaTokenizer json',
  ])
    expect(kinds).toContain(kind);
  expect(CASES.length).toBeGreaterThan(25);
});

describe('what cannot be followed is refused by name', () => {
  const byForm = (form: TokenizerCase['form']) => {
    const one = CASES.find((each) => each.form === form && each.expected.class !== 'TokenizersBackend');
    if (!one) throw new Error(`no case of ${form}`);
    return buildTokenizerFolder(one);
  };
  const configured = (values: object, modelType = 'llama') => {
    const folder = byForm('json');
    writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(values));
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ model_type: modelType }));
    return folder;
  };

  test.each<[string, object, string, RegExp]>([
    ['a class with rules of its own', { tokenizer_class: 'T5Tokenizer' }, 'UNSUPPORTED', /T5Tokenizer/],
    ['code of its own', { tokenizer_class: 'QWenTokenizer', auto_map: {} }, 'UNSUPPORTED', /auto_map/],
    ['taking special tokens apart', { split_special_tokens: true }, 'UNSUPPORTED', /split_special_tokens/],
    ['another pattern', { fix_mistral_regex: true }, 'UNSUPPORTED', /fix_mistral_regex/],
    [
      'other versions',
      { fast_tokenizer_files: ['tokenizer.4.1.json'] },
      'UNSUPPORTED',
      /fast_tokenizer_files/,
    ],
    [
      'an id that is none',
      { added_tokens_decoder: { x: { content: 'a' } } },
      'BAD_TOKENIZER',
      /whole numbers/,
    ],
    ['a token without text', { added_tokens_decoder: { 5: {} } }, 'BAD_TOKENIZER', /without a text/],
  ])('%s', async (_what, values, code, message) => {
    const folder = configured(values);
    await expect(checkTokenizerFiles(folder)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
    await expect(loadTokenizer(folder)).rejects.toMatchObject({ code });
  });

  test('a class that contradicts tokenizer.json', async () => {
    const byteLevel = CASES.find(({ form, base }) => form === 'json' && base === 'gpt2');
    const folder = byteLevel ? buildTokenizerFolder(byteLevel) : '';
    writeFileSync(join(folder, 'config.json'), '{"model_type":"llama"}');
    writeFileSync(join(folder, 'tokenizer_config.json'), '{"tokenizer_class":"LlamaTokenizerFast"}');
    await expect(loadTokenizer(folder)).rejects.toThrow(/contradict each other/);
  });

  test('a merge of three parts, a cut model, no vocabulary at all', async () => {
    const merges = byForm('merges');
    appendFileSync(join(merges, 'merges.txt'), '\na b c\n');
    await expect(loadTokenizer(merges)).rejects.toThrow(/"a b c" on line \d+/);
    const pieces = byForm('pieces');
    const path = join(pieces, 'tokenizer.model');
    writeFileSync(path, readFileSync(path).subarray(0, 1000));
    await expect(loadTokenizer(pieces)).rejects.toThrow(/no SentencePiece model/);
    rmSync(path);
    await expect(checkTokenizerFiles(pieces)).rejects.toThrow(/tokenizer.json is absent/);
    expect(await hasTokenizer(pieces)).toBe(false);
    expect(await checkTokenizerFiles(tempFolder())).toBe(false);
  });

  test('half a character in a text', async () => {
    const tokenizer = await loadTokenizer(byForm('json'));
    for (const encode of [tokenizer.encode, tokenizer.encodeBare])
      await expect(encode('a\ud83d b')).rejects.toMatchObject({ code: 'BAD_INPUT' });
    await expect(tokenizer.encodeBatch(['a', '\udc00'])).rejects.toThrow(/U\+DC00, at 0/);
    expect(await tokenizer.encodeBare('a😀\u0000')).not.toEqual([]);
  });
});
