// Prompts from options and nowhere: what they become, and what is refused.

import { describe, expect, it } from 'vitest';
import { parseJsonPrompt } from '../../src/cli/generation/prompt-line.js';
import { listOf, repeated } from '../../src/cli/generation/prompt-list.js';
import {
  checkEachLength,
  DEFAULT_PROMPTS,
  encodeEachPrompt,
  type PlacedPrompt,
  type Prompt,
  syntheticPrompts,
} from '../../src/cli/generation/prompts.js';

const VOCABULARY = { size: 100, startToken: 1, tokenizer: undefined };

/** With their positions. */
function placed(...prompts: readonly Prompt[]): PlacedPrompt[] {
  return prompts.map((prompt, index) => [index, prompt]);
}

describe('encoding', () => {
  it('keeps ids, and begins an empty prompt with the start token', async () => {
    const encoded = await encodeEachPrompt(placed({ tokenIds: [5, 6] }, { tokenIds: [] }), VOCABULARY);
    expect(encoded.map(({ index, tokens }) => [index, [...tokens]])).toEqual([
      [0, [5, 6]],
      [1, [1]],
    ]);
  });

  it('refuses an empty prompt without a start token', async () => {
    const vocabulary = { ...VOCABULARY, startToken: undefined };
    const [good, empty] = await encodeEachPrompt(placed({ tokenIds: [5] }, { tokenIds: [] }), vocabulary);
    expect(good?.problem).toBeUndefined();
    expect(empty?.problem).toMatchObject({
      code: 'EMPTY_PROMPT',
      message: expect.stringMatching(/^prompt 1 /),
    });
  });

  it('refuses ids beyond the vocabulary', async () => {
    const [{ problem } = {}] = await encodeEachPrompt(placed({ tokenIds: [5, 100] }), VOCABULARY);
    expect(problem).toMatchObject({
      code: 'BAD_INPUT',
      message: expect.stringMatching(/^prompt 0 has token id 100 at 1.*100 tokens \(0 to 99\)/),
    });
  });
});

describe('prompts that cannot be continued, among others', () => {
  it('carry their problem, and the others are as they are', async () => {
    const vocabulary = { ...VOCABULARY, startToken: undefined };
    const prompts = placed({ tokenIds: [5] }, { tokenIds: [] }, { tokenIds: [100] }, { tokenIds: [7] });
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
      const lines = ['[5]', `[6, ${id}]`, '[7]'].map((ids) =>
        parseJsonPrompt(`{"prompt_token_ids": ${ids}}`, 'a line', false),
      );
      const encoded = await encodeEachPrompt(placed(...lines), VOCABULARY);
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
  it('counts what a prompt asks for itself', () => {
    const own = prompts.map((prompt, index) => ({ ...prompt, own: { maxNewTokens: index + 2 } }));
    expect(checkEachLength(own, 1e9, 10)).toEqual(own);
    const [{ problem } = {}] = checkEachLength(own, 1, 9);
    expect(problem?.message).toMatch(/is to get 2 more.*lower its 'max_new_tokens'/);
  });

  it('a prompt may fill the context to the last position; without a limit all fit', () => {
    expect(checkEachLength(prompts, 2, 10)).toEqual(prompts);
    expect(checkEachLength(prompts, 1e9, undefined)).toEqual(prompts);
  });
});

describe('without input', () => {
  it('eight sentences are repeated up to the batch size', () => {
    const list = repeated(listOf(DEFAULT_PROMPTS.map((text) => ({ text }))), 10);
    expect(DEFAULT_PROMPTS).toHaveLength(8);
    expect(list).toHaveLength(10);
    expect(list.at(9)).toEqual({ text: DEFAULT_PROMPTS[1] });
  });

  it('synthetic prompts are the same every time, differ from each other, and lie in the vocabulary', () => {
    const prompts = syntheticPrompts(50);
    expect(prompts).toEqual(syntheticPrompts(50));
    expect(new Set(prompts.map((prompt) => JSON.stringify(prompt))).size).toBe(8);
    const ids = prompts.flatMap((prompt) => ('tokenIds' in prompt ? prompt.tokenIds : []));
    expect(ids.every((id) => Number(id) >= 0 && Number(id) < 50)).toBe(true);
  });
});
