// How answers of the model that is served are read, and grammars for them: made once, used by every request.

import type { TokenConstraint } from '../engine/request.js';
import type { Grammar } from '../structured/grammar.js';
import { Grammars } from '../structured/grammars.js';
import { chatTemplateText } from '../text/chat.js';
import { specialTokensOf } from '../text/shown-tokens.js';
import type { Tokenizer } from '../text/tokenizer/tokenizer.js';
import { type AnswerStyle, answerStyle, MARKS, type StyleOptions } from '../tools/families.js';
import { unsupportedField } from './api-error.js';

export interface ServedAnswers {
  readonly style: AnswerStyle;
  /** Special tokens that tell the parts of an answer from each other, as they are written. */
  readonly marks: ReadonlyMap<number, string>;
  readonly grammars: Grammars;
}

export interface ServedAnswersOptions extends StyleOptions {
  readonly folder: string;
  readonly tokenizer: Tokenizer;
  readonly vocabSize: number;
}

/** Rejects with BAD_OPTION for a parser that there is not, and with BAD_TOKENIZER. Its grammars are to be closed. */
export async function servedAnswers(options: ServedAnswersOptions): Promise<ServedAnswers> {
  const { folder, tokenizer, vocabSize } = options;
  const template = (await chatTemplateText(folder)) ?? '';
  return {
    style: answerStyle(template, options),
    marks: await specialTokensOf(tokenizer, MARKS),
    grammars: new Grammars({ tokenizer, vocabSize, stopTokens: tokenizer.eosTokenIds }),
  };
}

/** Makes a constraint for each text of a request: each follows its own tokens. */
export type MakeConstraint = () => Promise<TokenConstraint>;

/** Throws where the model is served without grammars. @param after the grammar begins behind these tokens */
export function constraintFor(
  answers: ServedAnswers | undefined,
  grammar: Grammar | undefined,
  after: readonly number[] = [],
): MakeConstraint | undefined {
  if (!grammar) return undefined;
  if (answers) return () => answers.grammars.constraint(grammar, { after });
  const sentence = 'answers of this model obey no format: leave response_format out';
  throw unsupportedField('response_format', sentence);
}
