// Compares vocabularies without a tokenizer.json with SentencePiece and tiktoken, as make_vocabularies.py wrote them:
// node dist/bench/reference/vocabularies.js FOLDER

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';

interface Expected {
  readonly options: unknown;
  readonly texts: readonly { readonly text: string; readonly ids: readonly number[] }[];
}

const root = process.argv[2] ?? '.';
let [equal, other] = [0, 0];
for (const name of readdirSync(root).sort()) {
  const { options, texts } = JSON.parse(readFileSync(join(root, name, 'expected.json'), 'utf8')) as Expected;
  const tokenizer = await loadTokenizer(join(root, name));
  const found: string[] = [];
  for (const { text, ids } of texts) {
    const ours = await tokenizer.encodeBare(text);
    if (isDeepStrictEqual(ours, ids)) equal++;
    else
      found.push(`${JSON.stringify(text)}: ${JSON.stringify(ours)}\n    instead of ${JSON.stringify(ids)}`);
  }
  other += found.length;
  if (found.length > 0)
    console.log(
      `${name}: ${found.length} of ${texts.length} differ (${JSON.stringify(options)})\n  ${found.slice(0, 2).join('\n  ')}`,
    );
}
console.log(JSON.stringify({ equal, other }));
if (other > 0) process.exitCode = 1;
