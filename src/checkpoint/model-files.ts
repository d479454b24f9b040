// Which files of a checkpoint's folder are the model's own: what this program reads there, and what others read.

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { systemCode } from '../files/json-file.js';

const WEIGHTS = /\.(safetensors|bin|pt|pth|gguf|ckpt|h5|msgpack|index\.json)$/;
const CONFIGURATION = /^((.*_)?config|params)\.json$/;
const TOKENIZER =
  /^(tokenizer.*|special_tokens_map|added_tokens|vocab|chat_template)\.json$|^(merges|vocab)\.txt$/;
const OTHER_TEXT = /\.(jinja|model|tiktoken|py)$/;

/** Whether a file of that name is the model's, be it there or not: one that is made there is read by the next run. */
export function isModelFile(name: string): boolean {
  return [WEIGHTS, CONFIGURATION, TOKENIZER, OTHER_TEXT].some((kind) => kind.test(name));
}

/** Paths of the model's files in `folder`, as they are there; none where it is no folder. */
export function modelFilesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter(isModelFile)
      .map((name) => join(folder, name));
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EACCES'].includes(systemCode(error) ?? '')) return [];
    throw error;
  }
}
