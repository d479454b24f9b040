// Compares tokenizers with what transformers makes of the same folders, which make_tokenizers.py wrote:
// node dist/bench/reference/tokenizers.js FOLDER

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { OperatingError } from '../../offload/index.js';
import { readTokenizerSettings, specialTokensOf } from '../../src/text/tokenizer/settings.js';
import { loadTokenizer, type Tokenizer } from '../../src/text/tokenizer/tokenizer.js';

interface Expected {
  readonly error?: string;
  readonly class: string;
  readonly size: number;
  readonly named: Record<string, string>;
  readonly bos: number | null;
  readonly eos: number | null;
  readonly pad: number | null;
  readonly special: readonly number[];
  readonly texts: readonly { text: string; ids: number[]; bare: number[]; decoded: string; shown: string }[];
}

/** Each difference as a line. */
async function differences(folder: string, wanted: Expected): Promise<string[]> {
  const tokenizer = await loadTokenizer(folder);
  const found: string[] = [];
  const compare = (what: string, ours: unknown, theirs: unknown) => {
    if (isDeepStrictEqual(ours, theirs)) return;
    found.push(`${what}: ${JSON.stringify(ours)} instead of ${JSON.stringify(theirs)}`);
  };
  const { named } = specialTokensOf(await readTokenizerSettings(folder));
  compare(
    'named',
    Object.fromEntries([...named].map(([role, { content }]) => [role, content])),
    wanted.named,
  );
  compare('size', tokenizer.vocabSize, wanted.size);
  compare('bos', tokenizer.bosTokenId ?? null, wanted.bos);
  compare('eos', tokenizer.eosTokenIds[0] ?? null, wanted.eos);
  compare('pad', tokenizer.padTokenId ?? null, wanted.pad);
  compare('special', specialIn(tokenizer), wanted.special);
  for (const { text, ids, bare, decoded, shown } of wanted.texts) {
    const quoted = JSON.stringify(text);
    compare(`ids of ${quoted}`, await tokenizer.encode(text), ids);
    compare(`bare ids of ${quoted}`, await tokenizer.encodeBare(text), bare);
    compare(`text of ${quoted}`, tokenizer.decode(bare, { skipSpecialTokens: false }), decoded);
    compare(`shown text of ${quoted}`, tokenizer.decode(bare), shown);
  }
  return found;
}

function specialIn(tokenizer: Tokenizer): number[] {
  return Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter(
    (id) => tokenizer.decode([id]) === '' && tokenizer.decode([id], { skipSpecialTokens: false }) !== '',
  );
}

const root = process.argv[2] ?? '.';
const counts = { equal: 0, other: 0, refused: 0, bothRefuse: 0, lenient: 0 };
const refusals = new Map<string, number>();
for (const name of readdirSync(root).sort()) {
  const folder = join(root, name);
  const wanted = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8')) as Expected;
  try {
    const found = wanted.error === undefined ? await differences(folder, wanted) : undefined;
    if (found === undefined) {
      await loadTokenizer(folder);
      counts.lenient++;
      console.log(`${name} runs, but transformers says ${wanted.error}`);
    } else if (found.length === 0) counts.equal++;
    else {
      counts.other++;
      console.log(`${name} OTHER (${wanted.class}):\n  ${found.slice(0, 4).join('\n  ')}`);
    }
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    if (wanted.error !== undefined) counts.bothRefuse++;
    else counts.refused++;
    const kind = `${error.code}: ${error.message.replaceAll(folder, '')}`;
    refusals.set(kind, (refusals.get(kind) ?? 0) + 1);
  }
}
for (const [kind, count] of refusals) console.log(`${count} × ${kind}`);
console.log(JSON.stringify(counts));
if (counts.other > 0) process.exitCode = 1;
