// The tokenizer: golden ids, special tokens as configured, and streaming that equals decoding at once.

import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { IncrementalDecoder } from '../../src/text/text-decoder.js';
import { loadTokenizer, type Tokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { goldenOf, modelFolder, shakespeareText } from '../helpers/fixtures.js';
import { randomFrom, randomInt } from '../helpers/random.js';
import { tempFolder } from '../helpers/temp-folder.js';

type Change = (json: Record<string, unknown>) => void;

/** A copy of a fixture's tokenizer with some files changed. */
function changed(model: string, changes: Readonly<Record<string, Change>>): string {
  const folder = tempFolder();
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'config.json']) {
    cpSync(join(modelFolder(model), name), join(folder, name));
  }
  for (const [name, change] of Object.entries(changes)) {
    const path = join(folder, name);
    const json = JSON.parse(readFileSync(path, 'utf8'));
    change(json);
    writeFileSync(path, JSON.stringify(json));
  }
  return folder;
}

const settings = (values: Record<string, unknown>) => ({
  'tokenizer_config.json': (json: Record<string, unknown>) => void Object.assign(json, values),
});

test.each(['shakespeare-bloom', 'bloom', 'bloom-6-heads', 'gpt2', 'llama', 'llama3-rope'])(
  'golden ids of %s, one by one and in a batch',
  async (name) => {
    const tokenizer = await loadTokenizer(modelFolder(name));
    const { prompts, input_ids } = goldenOf(name);
    expect(await tokenizer.encodeBatch(prompts)).toEqual(input_ids);
    for (const [i, prompt] of prompts.entries()) {
      const ids = await tokenizer.encode(prompt);
      expect(ids).toEqual(input_ids[i]);
      expect(tokenizer.decode(ids)).toBe(prompt);
    }
  },
);

test('special ids and sizes', async () => {
  const bloom = await loadTokenizer(modelFolder('shakespeare-bloom'));
  expect(bloom).toMatchObject({ vocabSize: 2048, bosTokenId: 1, eosTokenIds: [2], padTokenId: 3 });
  const stories = await loadTokenizer(modelFolder('stories260K'));
  expect(stories).toMatchObject({ vocabSize: 512, bosTokenId: 1, eosTokenIds: [2], padTokenId: undefined });
  expect([0, 1, 2, 3].map((id) => stories.isSpecial(id))).toEqual([true, true, true, false]);
});

describe('what ends a text', () => {
  test.each<[string, Record<string, unknown> | undefined, unknown, number[]]>([
    ['generation_config.json decides', { eos_token_id: [7, 2, 7] }, [2, 9], [7, 2]],
    ['config.json, where there is no other', undefined, [2, 9], [2, 9]],
    ['the end token, where generation_config.json names none', { eos_token_id: null }, 9, [3]],
    ['the same for -1 and for silence', { eos_token_id: -1 }, 9, [3]],
    ['and for config.json', undefined, null, [3]],
  ])('%s', async (_what, generation, eos, expected) => {
    const folder = changed('shakespeare-bloom', {
      ...settings({ eos_token: '<pad>' }),
      'config.json': (json) => void Object.assign(json, { eos_token_id: eos }),
    });
    if (generation)
      writeFileSync(
        join(folder, 'generation_config.json'),
        JSON.stringify({ ...generation, bos_token_id: 5 }),
      );
    expect((await loadTokenizer(folder)).eosTokenIds).toEqual(expected);
  });

  test('tokens named as objects; none where the name is null', async () => {
    const folder = changed(
      'shakespeare-bloom',
      settings({ bos_token: { content: '<unk>' }, pad_token: null }),
    );
    writeFileSync(join(folder, 'config.json'), '{"model_type":"bloom","pad_token_id":-1}');
    expect(await loadTokenizer(folder)).toMatchObject({ bosTokenId: 0, padTokenId: undefined });
  });
});

test('without tokenizer_config.json, config.json names the special ids', async () => {
  const folder = tempFolder();
  for (const name of ['tokenizer.json', 'config.json'])
    cpSync(join(modelFolder('bloom'), name), join(folder, name));
  expect(await loadTokenizer(folder)).toMatchObject({ eosTokenIds: [2], bosTokenId: 1, padTokenId: 3 });
});

describe('special tokens around a text', () => {
  const template = {
    type: 'TemplateProcessing',
    single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '</s>', type_id: 0 } }],
    pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
    special_tokens: { '</s>': { id: '</s>', ids: [2], tokens: ['</s>'] } },
  };
  test.each<[string, string, Record<string, unknown>, unknown, number[], number[]]>([
    ['tokenizer.json decides', 'stories260K', { add_bos_token: null }, undefined, [1], []],
    [
      'whatever the settings say',
      'stories260K',
      { add_bos_token: false, add_eos_token: true },
      undefined,
      [1],
      [],
    ],
    ['also with an end', 'bloom', { add_bos_token: true }, template, [], [2]],
    ['also with nothing', 'bloom', { add_bos_token: true, add_eos_token: true }, null, [], []],
  ])('%s (%s)', async (_what, model, values, postProcessor, before, after) => {
    const plain = await loadTokenizer(modelFolder(model));
    const folder = changed(model, {
      ...settings(values),
      'tokenizer.json': (json) => {
        if (postProcessor !== undefined) json.post_processor = postProcessor;
      },
    });
    const tokenizer = await loadTokenizer(folder);
    for (const text of ['a', '', 'Once upon a time', '<s> in the text is a token of its own'])
      expect(await tokenizer.encode(text)).toEqual([...before, ...(await plain.encodeBare(text)), ...after]);
  });

  test('a special token within a text is that token', async () => {
    const tokenizer = await loadTokenizer(modelFolder('bloom'));
    expect(await tokenizer.encode('A</s>A')).toEqual([36, 2, 36]);
    expect(tokenizer.decode([36, 2, 36])).toBe('AA');
    expect(tokenizer.decode([36, 2, 36], { skipSpecialTokens: false })).toBe('A</s>A');
  });
});

test('truncation and padding stored in tokenizer.json are off', async () => {
  const folder = changed('bloom', {
    'tokenizer.json': (json) => {
      json.truncation = { direction: 'Right', max_length: 2, strategy: 'LongestFirst', stride: 0 };
      json.padding = {
        strategy: { Fixed: 64 },
        direction: 'Left',
        pad_to_multiple_of: null,
        pad_id: 3,
        pad_type_id: 0,
        pad_token: '<pad>',
      };
    },
  });
  const { prompts, input_ids } = goldenOf('bloom');
  const tokenizer = await loadTokenizer(folder);
  expect(await tokenizer.encodeBatch(prompts)).toEqual(input_ids);
  expect(await tokenizer.encode(prompts[0] ?? '')).toEqual(input_ids[0]);
});

test('a long text goes there and back', async () => {
  const tokenizer = await loadTokenizer(modelFolder('shakespeare-bloom'));
  const text = shakespeareText();
  expect(tokenizer.decode(await tokenizer.encode(text))).toBe(text);
});

test('ids beyond the vocabulary give no text', async () => {
  const tokenizer = await loadTokenizer(modelFolder('bloom'));
  expect(tokenizer.decode([36, 100_000, 36])).toBe('AA');
});

test('an absent or malformed tokenizer.json', async () => {
  await expect(loadTokenizer(tempFolder())).rejects.toMatchObject({
    code: 'BAD_TOKENIZER',
    message: expect.stringMatching(/tokenizer.json is absent/),
  });
  for (const text of ['', '{', '[]', '{"version":"1.0"}', '{"version":"1.0","model":{"type":"Nope"}}']) {
    const folder = tempFolder();
    writeFileSync(join(folder, 'tokenizer.json'), text);
    await expect(loadTokenizer(folder)).rejects.toMatchObject({
      code: 'BAD_TOKENIZER',
      message: expect.stringMatching(/tokenizer.json is malformed/),
    });
  }
});

describe.each(['shakespeare-bloom', 'stories260K'])('streaming with %s', (model) => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(modelFolder(model));
  });

  const stream = (prompt: readonly number[], ids: readonly number[]) => {
    const text = new IncrementalDecoder(tokenizer, prompt);
    return [...ids.map((id) => text.push(id)), text.end()];
  };

  test('continues the prompt, with its space', async () => {
    const all = await tokenizer.encode('Once upon a time, there was');
    const prompt = await tokenizer.encode('Once upon a time');
    expect(all.slice(0, prompt.length)).toEqual(prompt);
    expect(stream(prompt, all.slice(prompt.length)).join('')).toBe(', there was');
    const words = await tokenizer.encode('to be or not');
    for (let cut = 0; cut <= words.length; cut++) {
      const shown = tokenizer.decode(words.slice(0, cut));
      expect(shown + stream(words.slice(0, cut), words.slice(cut)).join('')).toBe('to be or not');
    }
  });

  test('from the start token alone there is no space at the start', async () => {
    const ids = await tokenizer.encode('Once upon');
    expect(stream([1], ids).join('')).toBe('Once upon');
    expect(stream([], ids).join('')).toBe('Once upon');
  });

  test('special tokens show nothing and change nothing', async () => {
    const ids = await tokenizer.encode('a b');
    expect(stream([1], [2, ...ids.flatMap((id) => [id, 1])]).join('')).toBe('a b');
    expect(stream([], [])).toEqual(['']);
  });

  test('characters of several tokens come whole, wherever the prompt ends', async () => {
    const text = 'é€😀 — 你好, naïve 👩‍👩‍👧 end';
    const ids = await tokenizer.encode(text);
    expect(ids.length).toBeGreaterThan(text.length);
    for (let cut = 0; cut < ids.length; cut++) {
      const pieces = stream(ids.slice(0, cut), ids.slice(cut));
      for (const piece of pieces) {
        expect(piece).not.toContain('\ufffd');
        expect(piece).toBe(Buffer.from(piece).toString());
      }
      const shown = tokenizer.decode(ids.slice(0, cut)).replace(/\ufffd+$/, '');
      expect(shown + pieces.join('')).toBe(text);
    }
  });

  test('an unfinished character at the end is shown by end(), once', async () => {
    const prompt = await tokenizer.encode('A');
    const ids = (await tokenizer.encode('A😀')).slice(prompt.length);
    const text = new IncrementalDecoder(tokenizer, prompt);
    expect(ids.slice(0, -1).map((id) => text.push(id))).toEqual(['', '', '']);
    expect(text.end()).toMatch(/^\ufffd+$/);
    expect(text.end()).toBe('');
  });

  test('property: random tokens stream to the same text as decoding all at once', () => {
    const random = randomFrom(model.length);
    let consistentCount = 0;
    for (let round = 0; round < 400; round++) {
      const ids = Array.from({ length: 1 + randomInt(random, 40) }, () => randomId(tokenizer, random));
      const cut = randomInt(random, ids.length);
      const pieces = stream(ids.slice(0, cut), ids.slice(cut));
      for (const piece of pieces) expect(piece).toBe(Buffer.from(piece).toString());
      const prompt = tokenizer.decode(ids.slice(0, cut));
      if (!prefixConsistent(tokenizer, ids, cut)) continue;
      consistentCount++;
      expect(prompt + pieces.join('')).toBe(tokenizer.decode(ids));
    }
    expect(consistentCount).toBeGreaterThan(50);
  });
});

describe('bytes that never make a character', () => {
  /** Counts what the stream decodes: its work must grow with the tokens, not with their square. */
  function counting(tokenizer: Tokenizer): { tokenizer: Tokenizer; decoded: () => number } {
    let count = 0;
    const decode: Tokenizer['decode'] = (ids, options) => {
      count += ids.length;
      return tokenizer.decode(ids, options);
    };
    return { tokenizer: { ...tokenizer, decode }, decoded: () => count };
  }

  const byteOf = (tokenizer: Tokenizer, byte: number) => {
    const ids = Array.from({ length: tokenizer.vocabSize }, (_, id) => id);
    const byByte = ids.find((id) => tokenizer.byteOf(id) === byte);
    return byByte ?? ids.find((id) => tokenizer.decode([id]) === '\ufffd') ?? 0;
  };

  test.each(['stories260K', 'shakespeare-bloom'])('%s: as decoded at once, in linear work', async (model) => {
    const plain = await loadTokenizer(modelFolder(model));
    for (const ids of [
      Array(3000).fill(byteOf(plain, 0x80)),
      Array(3000).fill(plain.vocabSize + 1),
      [
        ...(await plain.encodeBare('a')),
        ...Array(2000).fill(byteOf(plain, 0xff)),
        ...(await plain.encodeBare('end')),
      ],
    ]) {
      const { tokenizer, decoded } = counting(plain);
      const decoder = new IncrementalDecoder(tokenizer, [1]);
      const text = ids.map((id) => decoder.push(id)).join('') + decoder.end();
      expect(decoded()).toBeLessThan(100 * ids.length);
      expect(text).toBe(plain.decode(ids));
    }
  });

  test('a run of bytes is text as a whole or not at all', async () => {
    const tokenizer = await loadTokenizer(modelFolder('stories260K'));
    const bytes = (...values: number[]) => values.map((value) => 3 + value);
    const word = await tokenizer.encodeBare('a');
    for (const run of [
      bytes(...Buffer.from('€€€'), 0x80),
      bytes(...Buffer.from('€'), 0xe2, 0x82),
      bytes(0x80, ...Buffer.from('€')),
      bytes(...Buffer.from('日本語')),
      bytes(0xed, 0xa0, 0x80),
      bytes(0xf0, 0x9f),
    ]) {
      for (const ids of [run, [...run, ...word], [...word, ...run, ...word, ...run]]) {
        const decoder = new IncrementalDecoder(tokenizer, [1]);
        const text = ids.map((id) => decoder.push(id)).join('') + decoder.end();
        expect(text).toBe(tokenizer.decode(ids));
      }
    }
  });

  test('random bytes and words of a byte-level vocabulary', async () => {
    const tokenizer = await loadTokenizer(modelFolder('gpt2'));
    const random = randomFrom(5);
    for (let round = 0; round < 60; round++) {
      const share = random();
      const ids = Array.from({ length: 200 }, () =>
        random() < share ? 4 + randomInt(random, 256) : randomInt(random, tokenizer.vocabSize),
      );
      const decoder = new IncrementalDecoder(tokenizer, []);
      const text = ids.map((id) => decoder.push(id)).join('') + decoder.end();
      expect(text).toBe(tokenizer.decode(ids));
    }
  });
});

/** Half of the tokens are ordinary ones, a quarter is single bytes, some are special. */
function randomId(tokenizer: Tokenizer, random: () => number): number {
  const kind = random();
  if (kind < 0.05) return randomInt(random, 3);
  return kind < 0.3 ? 3 + randomInt(random, 256) : 259 + randomInt(random, tokenizer.vocabSize - 259);
}

/** Whether text that ended in a whole character stays as it was when more tokens follow. */
function prefixConsistent(tokenizer: Tokenizer, ids: readonly number[], from: number): boolean {
  let last = tokenizer.decode(ids.slice(0, from));
  for (let count = from + 1; count <= ids.length; count++) {
    const text = tokenizer.decode(ids.slice(0, count));
    if (!text.startsWith(last)) return false;
    if (!text.endsWith('\ufffd')) last = text;
  }
  return true;
}
