// Which tokenizer, and which chat template, a run's texts were made with: a digest of what decides them.

import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { isJsonObject, MOST_JSON_BYTES } from '../../files/json-file.js';
import { readSmallFile } from '../../files/regular-file.js';
import { BARE_VOCABULARIES, MERGES, WHOLE_TOKENIZER } from '../../files/tokenizer-files.js';

/** Beside it, these are not read. */
const WHOLE = WHOLE_TOKENIZER;
const PARTS = ['vocab.json', MERGES, ...BARE_VOCABULARIES.filter((name) => name !== 'vocab.json')];
/** Tokens and settings that stand beside either. */
const BESIDE = ['tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'] as const;

/** The digest of all files that make the tokenizer in `folder`. Chats have a template of their own, which is none of it. */
export async function tokenizerDigest(folder: string): Promise<string> {
  const hash = createHash('sha256');
  const whole = await readOptional(join(folder, WHOLE));
  const names = [...(whole ? [WHOLE] : PARTS), ...BESIDE];
  for (const name of names) {
    const content = name === WHOLE ? whole : await readOptional(join(folder, name));
    if (content === undefined) continue;
    hash.update(`${name}\0`);
    hash.update(name === 'tokenizer_config.json' ? withoutTemplate(content) : content);
  }
  return hash.digest('hex').slice(0, 16);
}

function withoutTemplate(content: Buffer): string | Buffer {
  try {
    const settings: unknown = JSON.parse(content.toString('utf8'));
    if (!isJsonObject(settings)) return content;
    const { chat_template: _, ...rest } = settings;
    return JSON.stringify(rest);
  } catch {
    return content; // whoever uses it says what is wrong
  }
}

function readOptional(path: string): Promise<Buffer | undefined> {
  return readSmallFile(path, MOST_JSON_BYTES, 'BAD_TOKENIZER');
}
