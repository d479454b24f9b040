// Tokenizer files on which the Rust core would end the process: refused before it sees them.

import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { sectionOf } from '../../src/text/tokenizer/file.js';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { modelFolder } from '../helpers/fixtures.js';
import { tempFolder } from '../helpers/temp-folder.js';

interface TokenizerJson {
  post_processor: unknown;
  model: Record<string, unknown>;
}

function changed(change: (json: TokenizerJson) => void): string {
  const folder = tempFolder();
  cpSync(modelFolder('llama'), folder, { recursive: true });
  const path = join(folder, 'tokenizer.json');
  const json: TokenizerJson = JSON.parse(readFileSync(path, 'utf8'));
  change(json);
  writeFileSync(path, JSON.stringify(json));
  return folder;
}

const template = (single: unknown[], specialTokens: unknown = {}) => ({
  type: 'TemplateProcessing',
  single,
  pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
  special_tokens: specialTokens,
});
const text = { Sequence: { id: 'A', type_id: 0 } };
const begin = { SpecialToken: { id: '<s>', type_id: 0 } };
const sequence = (processor: unknown) => ({ type: 'Sequence', processors: [processor] });

test.each<[string, unknown, RegExp]>([
  ['a token that is not defined', template([begin, text]), /puts the token "<s>" around texts/],
  ['the same within a sequence', sequence(template([begin, text])), /puts the token "<s>" around texts/],
  [
    'a token with more ids than texts',
    template([begin, text], { '<s>': { id: '<s>', ids: [1, 2], tokens: ['<s>'] } }),
    /as many tokens as ids/,
  ],
  ['a second text where there is one', template([text, { Sequence: { id: 'B', type_id: 1 } }]), /A only/],
])('%s', async (_what, postProcessor, message) => {
  const folder = changed((json) => {
    json.post_processor = postProcessor;
  });
  await expect(loadTokenizer(folder)).rejects.toMatchObject({ code: 'BAD_TOKENIZER' });
  await expect(loadTokenizer(folder)).rejects.toThrow(message);
});

test('a prefix that merges lack', async () => {
  const folder = changed((json) => {
    json.model.continuing_subword_prefix = 'a prefix longer than any merge';
  });
  await expect(loadTokenizer(folder)).rejects.toThrow(
    /whose second half lacks the continuing_subword_prefix/,
  );
});

test('a section is found without parsing the rest, and nothing endless happens where it is cut off', () => {
  const json = '{"vocab":{"merges":3,"\\"merges\\":[":4},"merges":[["a","]}"],{"b":"\\""}],"x":"y"}';
  expect(sectionOf(json, 'merges')).toEqual([['a', ']}'], { b: '"' }]);
  expect(sectionOf(json, 'x')).toBe('y');
  expect(sectionOf(json, 'absent')).toBeUndefined();
  for (let end = 0; end < json.length; end++) sectionOf(json.slice(0, end), 'merges');
});
