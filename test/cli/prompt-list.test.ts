// Prompts of files: text or JSON Lines, each key with its effect or refused, each line by its number.

import { appendFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type PromptList, readPrompts } from '../../src/cli/generation/prompt-list.js';
import type { Prompt } from '../../src/cli/generation/prompts.js';
import { tempFolder } from '../helpers/temp-folder.js';

const folder = tempFolder();
const READING = { format: 'auto', draws: false } as const;

function read(content: string | Uint8Array, name = 'p.jsonl', options = {}): Promise<PromptList> {
  const path = join(folder, name);
  writeFileSync(path, content);
  return readPrompts({ path, option: '--prompts_file' }, { ...READING, ...options });
}

function all(list: PromptList): Prompt[] {
  return Array.from({ length: list.length }, (_, index) => list.at(index));
}

describe('prompts files', () => {
  it('text: a prompt a line, whatever the line ends, blank lines left out', async () => {
    const prompts = await read('\ufeffone\r\n\n  two  \n{"prompt": "three"}', 'p.txt');
    expect(all(prompts)).toEqual([{ text: 'one' }, { text: '  two  ' }, { text: '{"prompt": "three"}' }]);
  });

  it('JSON Lines: text, ids or messages; null counts as absent; no line end at the end', async () => {
    const messages = [{ role: 'user', content: 'hello' }];
    const content = `\ufeff{"prompt": "a\\nb"}\r\n\n{"prompt": null, "prompt_token_ids": [3, 4], "seed": null}\n{"prompt": ""}\n${JSON.stringify({ messages })}`;
    const prompts = await read(content);
    expect(all(prompts)).toEqual([{ text: 'a\nb' }, { tokenIds: [3, 4] }, { text: '' }, { messages }]);
    expect(prompts.has).toEqual({ text: true, messages: true, stopStrings: false });
  });

  it('are known as JSON Lines by their name, their first line, or an option', async () => {
    const line = '{"prompt": "x"}\n';
    for (const name of ['p', 'p.txt', 'p.jsonl', 'p.ndjson', 'p.json']) {
      expect(all(await read(line, name))).toEqual([{ text: 'x' }]);
    }
    expect(all(await read(line, 'p.jsonl', { format: 'text' }))).toEqual([{ text: line.trim() }]);
    await expect(read(`plain\n${line}`, 'p', { format: 'jsonl' })).rejects.toThrow(
      /^line 1 of .* is not JSON/,
    );
    // A document over several lines is no list of prompts.
    await expect(read('[\n"a",\n"b"]', 'p.json')).rejects.toThrow(/line 1 of .*p\.json is not JSON/);
  });

  it('are the same across the borders of pieces, and are read again from the file', async () => {
    const lines = Array.from({ length: 3000 }, (_, index) => `${index} ${'ü€😀'.repeat(index % 97)}`);
    const prompts = await read(lines.join('\n'), 'long.txt');
    expect(all(prompts)).toEqual(lines.map((text) => ({ text })));
    // What is kept does not grow with the text.
    expect(prompts.heldBytes).toBeLessThan(100_000);
  });

  it('a file that changes while its prompts are in use is told', async () => {
    const prompts = await read('one\ntwo\n', 'changing.txt');
    appendFileSync(join(folder, 'changing.txt'), 'three\n');
    expect(() => prompts.at(1)).toThrow(expect.objectContaining({ code: 'FILE_CHANGED' }));
  });
});

describe('what a line asks for itself', () => {
  it('is read with the options’ names, and two more', async () => {
    const own = {
      id: 'a-1',
      max_tokens: 7,
      temperature: 0.5,
      top_k: 3,
      top_p: 0.9,
      min_p: 0.1,
      repetition_penalty: 1.1,
      seed: 2 ** 53 - 1,
      stop: 'x',
      ignore_eos: true,
    };
    const lines = [own, { max_new_tokens: 7, max_tokens: 7, id: 5, stop: ['a', 'b'] }, { stop: [] }];
    const prompts = await read(lines.map((line) => JSON.stringify({ prompt: 'p', ...line })).join('\n'));
    expect(all(prompts)).toEqual([
      {
        text: 'p',
        own: {
          id: 'a-1',
          maxNewTokens: 7,
          sampling: {
            temperature: 0.5,
            topK: 3,
            topP: 0.9,
            minP: 0.1,
            repetitionPenalty: 1.1,
            seed: 2 ** 53 - 1,
          },
          stopStrings: ['x'],
          ignoreEos: true,
        },
      },
      { text: 'p', own: { id: 5, maxNewTokens: 7, stopStrings: ['a', 'b'] } },
      { text: 'p', own: { stopStrings: [] } },
    ]);
    expect(prompts.has.stopStrings).toBe(true);
  });

  it('a result is a prompt again, with its id and messages', async () => {
    const result = {
      index: 3,
      sample: 1,
      id: 'x',
      prompt: 'p',
      text: 't',
      token_ids: [1],
      finish_reason: 'error',
    };
    const more = { prompt_tokens: 1, new_tokens: 1, error: { code: 'BAD_INPUT', message: 'm' } };
    expect(all(await read(JSON.stringify({ ...result, ...more })))).toEqual([
      { text: 'p', own: { id: 'x' } },
    ]);
  });

  it('settings of drawing are idle without a temperature, be it the run’s', async () => {
    const line = '{"prompt": "p", "seed": 4}';
    await expect(read(line)).rejects.toThrow(/line 1 of .* has 'seed', which is for drawing.*'temperature'/);
    expect((await read(line, 'p.jsonl', { draws: true })).length).toBe(1);
  });
});

describe('refuses', () => {
  it.each([
    ['{"prompt": "a"}\n\n{prompt}', /^line 3 of .*p\.jsonl is not JSON/],
    ['["a"]', /line 1 of .* is JSON, but not an object/],
    ['{"text": "a"}', /has none of 'prompt', 'prompt_token_ids', 'messages'/],
    ['{"prompt": "a", "prompt_token_ids": [1]}', /has 2 of 'prompt', 'prompt_token_ids', 'messages'/],
    ['{"prompt": 5}', /'prompt' is no string/],
    ['{"prompt": "\\ud800"}', /'?prompt'? has half of a surrogate pair/],
    ['{"prompt_token_ids": "1 2"}', /is no list of token ids/],
    ['{"prompt": "a", "temprature": 1}', /line 1 of .* has "temprature".*did you mean 'temperature'\?/],
    ['{"promt": "a"}', /has "promt".*did you mean 'prompt'\?/],
    ['{"prompt": "a", "n": 2}', /has "n".*--num_samples/],
    ['{"prompt": "a", "logprobs": true}', /has "logprobs", which says nothing here: leave it out/],
    ['{"prompt": "a", "toString": 1}', /has "toString"/],
    ['{"prompt": "a", "__proto__": 1}', /has "__proto__"/],
    [
      '{"custom_id": "1", "method": "POST", "url": "/", "body": {}}',
      /has "custom_id".*batch of API requests/,
    ],
    ['{"prompt": "a", "temperature": "1"}', /'temperature' is "1": give a number/],
    ['{"prompt": "a", "temperature": -1}', /'temperature' is -1: give a number from 0/],
    ['{"prompt": "a", "temperature": 1, "top_p": 0}', /'top_p' is 0: give a number above 0/],
    ['{"prompt": "a", "temperature": 1, "top_k": 1.5}', /'top_k' is 1\.5: give a whole number/],
    ['{"prompt": "a", "max_tokens": 0}', /'max_tokens' is 0: give a whole number from 1/],
    ['{"prompt": "a", "max_tokens": 2, "max_new_tokens": 3}', /which mean the same/],
    ['{"prompt": "a", "stop": ["x", ""]}', /'stop' is empty/],
    ['{"prompt": "a", "stop": 5}', /'stop' is 5: give a string/],
    ['{"prompt": "a", "ignore_eos": 1}', /'ignore_eos' is 1: give true or false/],
    ['{"prompt": "a", "id": {}}', /'id' is \{\}: give a string or a number/],
    ['{"messages": []}', /'messages' is no list/],
    ['{"messages": [{"role": "tool", "content": "x"}]}', /'messages' 0 has the role "tool"/],
    ['{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', /no string: other parts than text/],
    ['{"messages": [{"role": "user", "content": "x", "tool_calls": []}]}', /has "tool_calls"/],
  ])('%j', async (content, message) => {
    await expect(read(content)).rejects.toThrow(
      expect.objectContaining({ code: 'BAD_INPUT', message: expect.stringMatching(message) }),
    );
  });

  it.each([
    ['UTF-16', Uint8Array.of(0xff, 0xfe, 0x61, 0x00), /not UTF-8 text but UTF-16/],
    [
      'bytes that are no UTF-8',
      Buffer.concat([Buffer.from('good\n'), Buffer.of(0xc3, 0x28)]),
      /not UTF-8 text in line 2/,
    ],
    ['zero bytes', Buffer.from('a\0b\0'), /has a zero byte in line 1/],
  ])('%s', async (_, content, message) => {
    await expect(read(content, 'p.txt')).rejects.toThrow(message);
  });
});
