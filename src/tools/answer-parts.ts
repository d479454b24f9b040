// What an answer is made of: text for people, the model's reasoning before it, calls of tools; told apart as text comes.

export type AnswerPart =
  | { readonly kind: 'content'; readonly text: string }
  | { readonly kind: 'reasoning'; readonly text: string }
  /** The beginning of a call. */
  | { readonly kind: 'call'; readonly index: number; readonly id: string; readonly name: string }
  /** More of its arguments, which are JSON when all are put together. */
  | { readonly kind: 'arguments'; readonly index: number; readonly text: string };

/** Reads one answer piece by piece. */
export interface AnswerReader {
  /** What is certain with this piece. */
  push(text: string): readonly AnswerPart[];
  /** What was held back. */
  end(): readonly AnswerPart[];
}

/** Takes all that a model says as text for people. */
export const PLAIN_READER: AnswerReader = {
  push: (text) => (text === '' ? [] : [{ kind: 'content', text }]),
  end: () => [],
};

export interface WholeAnswer {
  readonly content: string;
  readonly reasoning: string;
  readonly calls: readonly { readonly id: string; readonly name: string; readonly arguments: string }[];
}

/** All parts of an answer put together. */
export function joinParts(parts: readonly AnswerPart[]): WholeAnswer {
  let [content, reasoning] = ['', ''];
  const calls: { id: string; name: string; arguments: string }[] = [];
  for (const part of parts) {
    if (part.kind === 'content') content += part.text;
    else if (part.kind === 'reasoning') reasoning += part.text;
    else if (part.kind === 'call') calls[part.index] = { id: part.id, name: part.name, arguments: '' };
    else {
      const call = calls[part.index];
      if (call) call.arguments += part.text;
    }
  }
  return { content, reasoning, calls };
}
