// A response's body and the items of it: reasoning, a message, calls of tools.

import type { WholeAnswer } from '../tools/answer-parts.js';
import { newId } from './ids.js';
import type { TokenLogProbs } from './log-probs.js';
import type { Usage } from './texts.js';

/** What is known of a response from its beginning. */
export interface ResponseHead {
  readonly id: string;
  readonly created_at: number;
  readonly model: string;
  readonly instructions: string | null;
  readonly max_output_tokens: number | null;
  readonly temperature: number;
  readonly top_p: number;
  readonly metadata: unknown;
  readonly parallel_tool_calls: boolean;
  readonly tools: readonly object[];
  readonly tool_choice: unknown;
  readonly text: object;
  readonly reasoning: object;
}

export interface ResponseEnd {
  readonly finishReason: string;
  readonly usage: Usage;
}

/** @param end absent while it is being made */
export function responseBody(head: ResponseHead, output: readonly object[], end?: ResponseEnd): object {
  const isCut = end?.finishReason === 'length';
  return {
    ...head,
    object: 'response',
    status: end ? (isCut ? 'incomplete' : 'completed') : 'in_progress',
    incomplete_details: isCut ? { reason: 'max_output_tokens' } : null,
    error: null,
    output,
    previous_response_id: null,
    store: false,
    truncation: 'disabled',
    usage: end ? usageOf(end.usage) : null,
  };
}

function usageOf({ prompt_tokens: given, completion_tokens: made, total_tokens: all }: Usage): object {
  return {
    input_tokens: given,
    input_tokens_details: { cached_tokens: 0 },
    output_tokens: made,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: all,
  };
}

/** An answer that is there as a whole. */
export function itemsOf(
  { content, reasoning, calls }: WholeAnswer,
  logProbs: readonly TokenLogProbs[],
): object[] {
  return [
    ...(reasoning === '' ? [] : [reasoningItem(newId('rs_'), reasoning)]),
    ...(content === '' && calls.length > 0
      ? []
      : [messageItem(newId('msg_'), { text: content, logProbs }, 'completed')]),
    ...calls.map(({ id, name, arguments: given }) =>
      callItem(newId('fc_'), { id, name, given }, 'completed'),
    ),
  ];
}

export type ItemStatus = 'in_progress' | 'completed';

/** What a message says. */
export interface Said {
  readonly text: string;
  /** Those of its tokens, where they were asked for. */
  readonly logProbs: readonly TokenLogProbs[];
}

/** @param said undefined for one that has just begun */
export function messageItem(id: string, said: Said | undefined, status: ItemStatus): object {
  return { id, type: 'message', role: 'assistant', status, content: said ? [textPart(said)] : [] };
}

export function textPart({ text, logProbs }: Said): object {
  return { type: 'output_text', text, annotations: [], logprobs: logProbs };
}

export function reasoningItem(id: string, text: string | undefined): object {
  const content = text === undefined ? [] : [{ type: 'reasoning_text', text }];
  return { id, type: 'reasoning', summary: [], content };
}

export interface Call {
  readonly id: string;
  readonly name: string;
  readonly given: string;
}

export function callItem(id: string, { id: callId, name, given }: Call, status: ItemStatus): object {
  return { id, type: 'function_call', status, call_id: callId, name, arguments: given };
}
