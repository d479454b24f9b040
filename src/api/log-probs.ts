// Log-probabilities of tokens, in the two forms in which completions and chats tell them.

import type { Tokenizer } from '../text/tokenizer/tokenizer.js';

interface Told {
  readonly tokens: readonly number[];
  readonly logProbs?: readonly number[];
  /** In place of each token, the likeliest first. */
  readonly topLogProbs?: readonly (readonly { readonly token: number; readonly logProb: number }[])[];
}

type Namer = Pick<Tokenizer, 'decode' | 'byteOf'>;

interface ChatToken {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[];
}

/** As chats have them. */
export function chatLogProbs({ tokens, logProbs = [], topLogProbs = [] }: Told, tokenizer: Namer): object {
  return {
    content: tokens.map((id, at) => ({
      ...chatToken(id, logProbs[at], tokenizer),
      top_logprobs: (topLogProbs[at] ?? []).map(({ token, logProb }) => chatToken(token, logProb, tokenizer)),
    })),
    refusal: null,
  };
}

function chatToken(id: number, logProb: number | undefined, tokenizer: Namer): ChatToken {
  const token = nameOf(id, tokenizer);
  const byte = tokenizer.byteOf(id);
  return { token, logprob: finite(logProb), bytes: byte === undefined ? [...Buffer.from(token)] : [byte] };
}

/** As completions have them. @param textOffset where the first of the tokens begins in the text */
export function completionLogProbs(
  { tokens, logProbs = [], topLogProbs }: Told,
  tokenizer: Namer,
  textOffset: number,
): { readonly text_offset: readonly number[] } & Readonly<Record<string, unknown>> {
  const names = tokens.map((id) => nameOf(id, tokenizer));
  let offset = textOffset;
  const offsets = names.map((name) => {
    offset += name.length;
    return offset - name.length;
  });
  return {
    tokens: names,
    token_logprobs: tokens.map((_, at) => finite(logProbs[at])),
    top_logprobs: topLogProbs
      ? topLogProbs.map((top, at) => ({
          ...Object.fromEntries(top.map(({ token, logProb }) => [nameOf(token, tokenizer), finite(logProb)])),
          // The token itself is among them in any case.
          [names[at] ?? '']: finite(logProbs[at]),
        }))
      : null,
    text_offset: offsets,
  };
}

function nameOf(id: number, tokenizer: Namer): string {
  return tokenizer.decode([id], { skipSpecialTokens: false });
}

/** JSON has no infinities: this is what OpenAI writes for what is next to impossible. */
function finite(logProb: number | undefined): number {
  return logProb !== undefined && Number.isFinite(logProb) ? logProb : -9999;
}
