// The names of the files that a tokenizer may be made of.

/** Says all that a tokenizer is; beside it, a vocabulary in another form is not read. */
export const WHOLE_TOKENIZER = 'tokenizer.json';
/** tiktoken's ranks, by the names that makers give them. */
export const RANK_FILES: readonly string[] = [
  'tiktoken.model',
  'hy.tiktoken',
  'qwen.tiktoken',
  'tokenizer.tiktoken',
];
/** A vocabulary in each of its other forms begins with one of these. */
export const BARE_VOCABULARIES: readonly string[] = ['vocab.json', 'tokenizer.model', ...RANK_FILES];
export const MERGES = 'merges.txt';
