// Vocabularies without a tokenizer.json, as bench/reference/make_vocabularies.py writes them, with the ids of SentencePiece and tiktoken.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tempFolder } from './temp-folder.js';

export interface VocabularyCase {
  /** By name, in base64. */
  readonly files: Readonly<Record<string, string>>;
  readonly options: Readonly<Record<string, unknown>>;
  readonly texts: readonly { readonly text: string; readonly ids: readonly number[] }[];
}

export function vocabularyCases(): VocabularyCase[] {
  // From where tests and benchmarks are run: what is compiled lies in another folder than the fixtures.
  return JSON.parse(readFileSync('test/fixtures/text/vocabulary-cases.json', 'utf8')) as VocabularyCase[];
}

export function vocabularyFolder({ files }: VocabularyCase): string {
  const folder = tempFolder();
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(folder, name), Buffer.from(content, 'base64'));
  }
  return folder;
}
