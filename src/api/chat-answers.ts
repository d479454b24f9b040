// A chat's answers begun: the same for chats and responses, which only tell of them in different words.

import { type AnswerReader, PLAIN_READER } from './answer-parts.js';
import { type SentMessage, templateMessages } from './messages.js';
import type { Asking } from './reply.js';
import type { ServedModel } from './served-model.js';
import { type LogProbWishes, type TextFields, textSettings } from './text-wishes.js';
import { beginTexts, type Text } from './texts.js';

export interface ChatWishes extends LogProbWishes {
  readonly messages: readonly SentMessage[];
  readonly fields: TextFields;
  /** Undefined: as many as there is room for. */
  readonly maxNewTokens: number | undefined;
  readonly samples: number;
}

export interface ChatAnswer {
  readonly text: Text;
  readonly reader: AnswerReader;
}

/** Rejects with what is wrong with the request, and then nothing is made. */
export async function beginAnswers(
  model: ServedModel,
  asking: Asking,
  wishes: ChatWishes,
): Promise<ChatAnswer[]> {
  const settings = textSettings(wishes.fields, wishes.maxNewTokens, wishes, { model, asking });
  const request = {
    prompt: { messages: templateMessages(wishes.messages) },
    settings,
    samples: wishes.samples,
    usualNewTokens: model.defaults.maxNewTokens ?? Number.POSITIVE_INFINITY,
  };
  const texts = await beginTexts(model, [request], asking.claimTokens);
  return texts.map((text) => ({ text, reader: PLAIN_READER }));
}
