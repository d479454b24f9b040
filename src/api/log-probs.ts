// Log-probabilities of tokens, in the three forms in which clients expect them; long texts have many, so they are told in slices.

import type { TokenLikelihood } from '../engine/request.js';
import { Turns } from '../files/turns.js';
import type { Tokenizer } from '../text/tokenizer/tokenizer.js';

interface Told {
  readonly tokens: ArrayLike<number>;
  readonly logProbs?: readonly number[];
  /** In place of each token, the likeliest first. */
  readonly topLogProbs?: readonly (readonly LikelyToken[])[];
}

interface LikelyToken {
  readonly token: number;
  readonly logProb: number;
}

type Namer = Pick<Tokenizer, 'decode' | 'byteOf' | 'isSpecial'>;

interface ChatToken {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[];
}

export interface TokenLogProbs extends ChatToken {
  readonly top_logprobs: readonly ChatToken[];
}

/** As responses have them. */
export async function tokenLogProbs(
  { tokens, logProbs = [], topLogProbs = [] }: Told,
  tokenizer: Namer,
): Promise<TokenLogProbs[]> {
  const turns = new Turns();
  const told: TokenLogProbs[] = [];
  for (let at = 0; at < tokens.length; at++) {
    if (turns.isOver) await turns.next();
    told.push({
      ...chatToken(tokens[at] as number, logProbs[at], tokenizer),
      top_logprobs: (topLogProbs[at] ?? []).map(({ token, logProb }) => chatToken(token, logProb, tokenizer)),
    });
  }
  return told;
}

/** As chats have them. */
export async function chatLogProbs(told: Told, tokenizer: Namer): Promise<object> {
  return { content: await tokenLogProbs(told, tokenizer), refusal: null };
}

function chatToken(id: number, logProb: number | undefined, tokenizer: Namer): ChatToken {
  const token = nameOf(id, tokenizer);
  const byte = tokenizer.byteOf(id);
  return { token, logprob: finite(logProb), bytes: byte === undefined ? [...Buffer.from(token)] : [byte] };
}

/** As completions have them: lists of the same length. */
export interface CompletionLogProbs {
  readonly tokens: readonly string[];
  readonly token_logprobs: readonly (number | null)[];
  readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[] | null;
  readonly text_offset: readonly number[];
}

/** @param textOffset where the first of the tokens begins in the text */
export async function completionLogProbs(
  { tokens, logProbs = [], topLogProbs }: Told,
  tokenizer: Namer,
  textOffset: number,
): Promise<CompletionLogProbs> {
  const turns = new Turns();
  const [names, offsets]: [string[], number[]] = [[], []];
  const top: Readonly<Record<string, number>>[] = [];
  let offset = textOffset;
  for (let at = 0; at < tokens.length; at++) {
    if (turns.isOver) await turns.next();
    const id = tokens[at] as number;
    const name = nameOf(id, tokenizer);
    names.push(name);
    offsets.push(offset);
    // Texts are without special tokens.
    if (!tokenizer.isSpecial(id)) offset += name.length;
    if (topLogProbs) {
      const others = (topLogProbs[at] ?? []).map(({ token, logProb }) => [
        nameOf(token, tokenizer),
        finite(logProb),
      ]);
      // The token itself is among them in any case.
      top.push({ ...Object.fromEntries(others), [name]: finite(logProbs[at]) });
    }
  }
  return {
    tokens: names,
    token_logprobs: names.map((_, at) => finite(logProbs[at])),
    top_logprobs: topLogProbs ? top : null,
    text_offset: offsets,
  };
}

/** The same of a prompt that is echoed: before its first token there is nothing that it could follow from. */
export async function promptLogProbs(
  tokens: Int32Array,
  likelihoods: readonly TokenLikelihood[],
  wishes: { readonly topLogProbs: number; readonly tokenizer: Namer },
): Promise<CompletionLogProbs> {
  const told = await completionLogProbs(
    {
      tokens,
      logProbs: [Number.NaN, ...likelihoods.map(({ logProb }) => logProb)],
      ...(wishes.topLogProbs > 0 ? { topLogProbs: [[], ...likelihoods.map(({ top = [] }) => top)] } : {}),
    },
    wishes.tokenizer,
    0,
  );
  return {
    ...told,
    token_logprobs: [null, ...told.token_logprobs.slice(1)],
    top_logprobs: told.top_logprobs && [null, ...told.top_logprobs.slice(1)],
  };
}

/** Those of a prompt, and behind them those of what goes on from it. */
export function joinLogProbs(prompt: CompletionLogProbs, text: CompletionLogProbs): CompletionLogProbs {
  return {
    tokens: prompt.tokens.concat(text.tokens),
    token_logprobs: prompt.token_logprobs.concat(text.token_logprobs),
    top_logprobs: prompt.top_logprobs?.concat(text.top_logprobs ?? []) ?? null,
    text_offset: prompt.text_offset.concat(text.text_offset),
  };
}

function nameOf(id: number, tokenizer: Namer): string {
  return tokenizer.decode([id], { skipSpecialTokens: false });
}

/** JSON has no infinities: this is what OpenAI writes for what is next to impossible. */
function finite(logProb: number | undefined): number {
  return logProb !== undefined && Number.isFinite(logProb) ? logProb : -9999;
}
