// A chat's answers begun: the same for chats and responses, which only tell of them in different words.

import type { Grammar } from '../structured/grammar.js';
import { type AnswerReader, PLAIN_READER } from '../tools/answer-parts.js';
import type { CallFormat } from '../tools/call-format.js';
import { type AnswerStyle, answerReader, isOpen, reasoningMarks } from '../tools/families.js';
import { forcedCalls, strictCalls } from '../tools/forced.js';
import { templateTools } from '../tools/template-tools.js';
import { constraintFor, type ServedAnswers } from './answer-style.js';
import { badField } from './api-error.js';
import { type SentMessage, templateMessages } from './messages.js';
import type { Asking } from './reply.js';
import type { ServedModel } from './served-model.js';
import { type LogProbWishes, type TextFields, textSettings } from './text-wishes.js';
import { beginTexts, type Text } from './texts.js';
import { checkWritesCalls, type ToolWishes } from './tool-fields.js';

export interface ChatWishes extends LogProbWishes {
  readonly messages: readonly SentMessage[];
  readonly fields: TextFields;
  /** Undefined: as many as there is room for. */
  readonly maxNewTokens: number | undefined;
  readonly samples: number;
  /** Default none. */
  readonly tools?: ToolWishes | undefined;
  /** What the answer has to obey, unless it is a call. */
  readonly grammar?: Grammar | undefined;
  /** For the template: how hard to think, and the like. */
  readonly variables?: Readonly<Record<string, unknown>> | undefined;
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
  const { answers } = model;
  const { tools: asked, variables } = wishes;
  const shown = asked && asked.choice !== 'none' ? asked.tools : [];
  checkWritesCalls(shown.length > 0, answers?.style.calls !== undefined);
  const { grammar, format } = obeyed(answers?.style, wishes);
  const prompt = {
    messages: templateMessages(wishes.messages),
    variables: { ...variables, tools: templateTools(shown) },
  };
  const promptTokens = await model.coder.encode(prompt, asking.signal, model.contextTokens);
  const promptEnd = model.tokenizer.decode([...promptTokens.slice(-16)], { skipSpecialTokens: false });
  const after = grammar && answers ? await thoughtEnd(model, answers, promptEnd) : [];
  const constraint = constraintFor(answers, grammar, after);
  const settings = textSettings(wishes.fields, wishes.maxNewTokens, wishes, { model, asking });
  const request = {
    prompt: { tokens: promptTokens },
    settings: {
      ...settings,
      ...(constraint ? { constraint } : {}),
      ...(answers ? { shownTokens: answers.marks } : {}),
      // A text ends where its grammar does.
      ...(constraint && settings.stopTokens?.size === 0 ? { stopTokens: undefined } : {}),
    },
    samples: wishes.samples,
    usualNewTokens: model.defaults.maxNewTokens ?? Number.POSITIVE_INFINITY,
  };
  const texts = await beginTexts(model, [request], asking.claimTokens);
  const reader = () =>
    answers ? answerReader(answers.style, { tools: shown, prompt: promptEnd, format }) : PLAIN_READER;
  return texts.map((text) => ({ text, reader: reader() }));
}

/** What the answer has to obey, and how calls are written in it where that is not the model's own choice. */
function obeyed(
  style: AnswerStyle | undefined,
  { tools: asked, grammar }: ChatWishes,
): { readonly grammar: Grammar | undefined; readonly format: CallFormat | undefined } {
  const { tools = [], choice = 'none', severalCalls = true } = asked ?? {};
  if (choice === 'none') return { grammar, format: undefined };
  if (choice === 'auto') return { grammar: grammar ?? strictCalls(style?.calls, tools), format: undefined };
  if (grammar)
    throw badField(
      'response_format',
      'a call that has to come obeys no other format: leave response_format out',
    );
  const own = choice === 'required' ? tools : tools.filter(({ name }) => name === choice.name);
  return forcedCalls(style?.calls, { tools: own, severalCalls: severalCalls && choice === 'required' });
}

/** Tokens with which the reasoning ends that the prompt has opened: only then comes what obeys. */
async function thoughtEnd(
  { tokenizer }: ServedModel,
  { style }: ServedAnswers,
  promptEnd: string,
): Promise<readonly number[]> {
  const marks = style.reasoning && reasoningMarks(style.reasoning);
  return marks && isOpen(promptEnd, marks) ? tokenizer.encodeBare(marks.close) : [];
}
