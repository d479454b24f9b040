// A tokenizer's vocabulary as the threads of grammars take it, made piece by piece so that nobody waits for it.

import { Turns } from '../files/turns.js';
import type { Tokenizer } from '../text/tokenizer/tokenizer.js';
import type { Vocabulary } from './messages.js';

const BYTES_PER_TOKEN = 8;

export interface VocabularyOptions {
  readonly tokenizer: Pick<Tokenizer, 'bytesOf'>;
  /** As the model has it: those that the tokenizer does not know may never come. */
  readonly vocabSize: number;
  /** They end a text, where it may end. */
  readonly stopTokens: readonly number[];
}

export async function vocabularyOf(options: VocabularyOptions): Promise<Vocabulary> {
  const { tokenizer, vocabSize, stopTokens } = options;
  const ends = new Uint32Array(vocabSize);
  let bytes = new Uint8Array(vocabSize * BYTES_PER_TOKEN);
  let end = 0;
  const turns = new Turns();
  for (let token = 0; token < vocabSize; token++) {
    if (turns.isOver) await turns.next();
    const own = stopTokens.includes(token) ? undefined : tokenizer.bytesOf(token);
    if (own) {
      if (end + own.length > bytes.length) {
        const larger = new Uint8Array(2 * (end + own.length));
        larger.set(bytes.subarray(0, end));
        bytes = larger;
      }
      bytes.set(own, end);
      end += own.length;
    }
    ends[token] = end;
  }
  return { bytes: bytes.slice(0, end), ends, stopTokens };
}
