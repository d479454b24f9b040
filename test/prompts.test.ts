// Prompts from files, options and nowhere: what they become, and what is refused.

import { describe, expect, it } from 'vitest';
import {
  checkEachLength,
  DEFAULT_PROMPTS,
  encodeEachPrompt,
  encodePrompts,
  parsePromptsFile,
  repeatPrompts,
  syntheticPrompts,
} from '../src/prompts.js';

const VOCABULARY = { size: 100, startToken: 1, tokenizer: undefined };

describe('prompts files', () => {
  it('text: a prompt a line, whatever the line ends, blank lines left out', () => {
    const prompts = parsePromptsFile('one\r\n\n  two  \n{"prompt": "three"}', 'p.txt');
    expect(prompts).toEqual([{ text: 'one' }, { text: '  two  ' }, { text: '{"prompt": "three"}' }]);
  });

  it('JSON lines: text or ids; null counts as absent; other keys do not matter', () => {
    const content =
      '{"prompt": "a\\nb", "id": 7}\n\n{"prompt": null, "prompt_token_ids": [3, 4]}\n{"prompt": ""}\n';
    expect(parsePromptsFile(content, 'p.jsonl')).toEqual([
      { text: 'a\nb' },
      { tokenIds: [3, 4] },
      { text: '' },
    ]);
  });

  it.each([
    ['{"prompt": "a"}\n\n{prompt}', /^line 3 of p\.jsonl is not JSON/],
    ['["a"]', /line 1 of p\.jsonl is JSON, but not an object/],
    ['{"text": "a"}', /neither of 'prompt' and 'prompt_token_ids'/],
    ['{"prompt": "a", "prompt_token_ids": [1]}', /both of 'prompt' and 'prompt_token_ids'/],
    ['{"prompt": 5}', /'prompt' is no string/],
    ['{"prompt_token_ids": "1 2"}', /is no list of token ids/],
    ['\n \n', /has no prompts/],
  ])('refuses %j', (content, message) => {
    expect(() => parsePromptsFile(content, 'p.jsonl')).toThrow(message);
  });
});

describe('encoding', () => {
  it('keeps ids, and begins an empty prompt with the start token', async () => {
    const encoded = await encodePrompts([{ tokenIds: [5, 6] }, { tokenIds: [] }], VOCABULARY);
    expect(encoded.map(({ index, tokens }) => [index, [...tokens]])).toEqual([
      [0, [5, 6]],
      [1, [1]],
    ]);
  });

  it('refuses an empty prompt without a start token', async () => {
    const vocabulary = { ...VOCABULARY, startToken: undefined };
    const prompts = [{ tokenIds: [5] }, { tokenIds: [] }];
    await expect(encodePrompts(prompts, vocabulary)).rejects.toMatchObject({
      code: 'EMPTY_PROMPT',
      message: expect.stringMatching(/^prompt 1 /),
    });
  });

  it('refuses ids beyond the vocabulary', async () => {
    await expect(encodePrompts([{ tokenIds: [5, 100] }], VOCABULARY)).rejects.toMatchObject({
      code: 'BAD_INPUT',
      message: expect.stringMatching(/^prompt 0 has token id 100 at 1.*100 tokens \(0 to 99\)/),
    });
  });
});

describe('prompts that cannot be continued, among others', () => {
  it('carry their problem, and the others are as they are', async () => {
    const vocabulary = { ...VOCABULARY, startToken: undefined };
    const prompts = [{ tokenIds: [5] }, { tokenIds: [] }, { tokenIds: [100] }, { tokenIds: [7] }];
    const encoded = await encodeEachPrompt(prompts, vocabulary);
    expect(encoded.map(({ problem }) => problem?.code)).toEqual([
      undefined,
      'EMPTY_PROMPT',
      'BAD_INPUT',
      undefined,
    ]);
    expect(encoded.map(({ tokens }) => [...tokens])).toEqual([[5], [], [100], [7]]);
  });
});

describe('ids that are none', () => {
  it.each(['-1', '2.5', '1e300', 'null', '"7"', '[7]', '{}', 'true', '-0.5', '2147483648', '4294967301'])(
    '%s is an error of its line',
    async (id) => {
      const lines = ['[5]', `[6, ${id}]`, '[7]'].map((ids) => `{"prompt_token_ids": ${ids}}`);
      const encoded = await encodeEachPrompt(parsePromptsFile(lines.join('\n'), 'p.jsonl'), VOCABULARY);
      expect(encoded.map(({ problem }) => problem?.code)).toEqual([undefined, 'BAD_INPUT', undefined]);
      expect(encoded[1]?.problem?.message).toMatch(/^prompt 1 has .* at 1/);
    },
  );
});

describe('lengths', () => {
  const prompts = [8, 5].map((length, index) => ({
    index,
    text: undefined,
    tokens: new Int32Array(length),
  }));
  it('names the prompt that does not fit, with the numbers', () => {
    const [long, short] = checkEachLength(prompts, 3, 10);
    expect(long?.problem).toMatchObject({
      code: 'PROMPT_TOO_LONG',
      message: expect.stringMatching(/prompt 0 has 8 tokens and is to get 3 more.*context is 10/),
    });
    expect(short).toEqual(prompts[1]);
  });
  it('a prompt may fill the context to the last position; without a limit all fit', () => {
    expect(checkEachLength(prompts, 2, 10)).toEqual(prompts);
    expect(checkEachLength(prompts, 1e9, undefined)).toEqual(prompts);
  });
});

describe('without input', () => {
  it('eight sentences are repeated up to the batch size', () => {
    const repeated = repeatPrompts(
      DEFAULT_PROMPTS.map((text) => ({ text })),
      10,
    );
    expect(DEFAULT_PROMPTS).toHaveLength(8);
    expect(repeated).toHaveLength(10);
    expect(repeated[9]).toEqual({ text: DEFAULT_PROMPTS[1] });
  });

  it('synthetic prompts are the same every time, differ from each other, and lie in the vocabulary', () => {
    const prompts = syntheticPrompts(50);
    expect(prompts).toEqual(syntheticPrompts(50));
    expect(new Set(prompts.map((prompt) => JSON.stringify(prompt))).size).toBe(8);
    const ids = prompts.flatMap((prompt) => ('tokenIds' in prompt ? prompt.tokenIds.map(Number) : []));
    expect(ids.every((id) => id >= 0 && id < 50)).toBe(true);
  });
});
