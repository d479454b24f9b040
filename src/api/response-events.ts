// A response told as it comes: items that are opened, grow and are closed, one at a time.

import type { Tokenizer } from '../text/tokenizer/tokenizer.js';
import type { AnswerPart } from '../tools/answer-parts.js';
import type { ChatAnswer } from './chat-answers.js';
import { newId } from './ids.js';
import { type TokenLogProbs, tokenLogProbs } from './log-probs.js';
import type { ServerEvent } from './reply.js';
import {
  callItem,
  messageItem,
  type ResponseHead,
  reasoningItem,
  responseBody,
  textPart,
} from './response-items.js';
import { textEvents, usageOf } from './texts.js';

/** An item that is open. */
interface OpenItem {
  readonly kind: 'content' | 'reasoning' | 'call';
  readonly id: string;
  readonly call: { readonly index: number; readonly id: string; readonly name: string } | undefined;
  text: string;
  readonly logProbs: TokenLogProbs[];
}

interface Told {
  readonly type: string;
  readonly [name: string]: unknown;
}

/** @param tokenizer where log-probabilities were asked for: names their tokens */
export async function* responseEvents(
  answer: ChatAnswer,
  head: ResponseHead,
  tokenizer?: Tokenizer,
): AsyncGenerator<ServerEvent, void> {
  let sequence = 0;
  const event = ({ type, ...rest }: Told): ServerEvent => ({
    event: type,
    data: { type, sequence_number: sequence++, ...rest },
  });
  const items = new Items();
  yield event({ type: 'response.created', response: responseBody(head, []) });
  yield event({ type: 'response.in_progress', response: responseBody(head, []) });
  let newTokens = 0;
  for await (const { piece, result } of textEvents([answer.text])) {
    if (piece) {
      newTokens += piece.tokens.length;
      const likely = tokenizer ? await tokenLogProbs(piece, tokenizer) : [];
      for (const told of items.take(answer.reader.push(piece.text), likely)) yield event(told);
    }
    if (!result) continue;
    for (const told of items.take(answer.reader.end())) yield event(told);
    for (const told of items.end()) yield event(told);
    const usage = usageOf([answer.text], newTokens);
    const response = responseBody(head, items.closed, { finishReason: result.finishReason, usage });
    const type = result.finishReason === 'length' ? 'response.incomplete' : 'response.completed';
    yield event({ type, response });
  }
}

class Items {
  readonly closed: object[] = [];
  /** Those of tokens whose text has not come yet. */
  #untold: TokenLogProbs[] = [];
  #open: OpenItem | undefined;

  /** @param logProbs of the tokens that the parts were made of: told with the first that is shown */
  take(parts: readonly AnswerPart[], logProbs: readonly TokenLogProbs[] = []): Told[] {
    this.#untold.push(...logProbs);
    return parts.flatMap((part) => [...this.#turnTo(part), ...this.#grow(part)]);
  }

  /** There is a message also where nothing was said. */
  end(): Told[] {
    const opened = this.closed.length === 0 && !this.#open ? this.#begin('content', undefined) : [];
    return [...opened, ...this.#close()];
  }

  /** What is open makes way for what the part belongs to. */
  #turnTo(part: AnswerPart): Told[] {
    if (part.kind === 'arguments') return [];
    const goesOn = part.kind !== 'call' && this.#open?.kind === part.kind;
    if (goesOn) return [];
    return [...this.#close(), ...this.#begin(part.kind, part.kind === 'call' ? part : undefined)];
  }

  #begin(kind: OpenItem['kind'], call: OpenItem['call']): Told[] {
    const id = newId(kind === 'content' ? 'msg_' : kind === 'reasoning' ? 'rs_' : 'fc_');
    this.#open = { kind, id, call, text: '', logProbs: [] };
    const at = { output_index: this.closed.length };
    const added = { type: 'response.output_item.added', ...at, item: itemOf(this.#open, 'in_progress') };
    if (kind !== 'content') return [added];
    const part = { item_id: id, ...at, content_index: 0, part: textPart({ text: '', logProbs: [] }) };
    return [added, { type: 'response.content_part.added', ...part }];
  }

  #grow(part: AnswerPart): Told[] {
    const open = this.#open;
    if (!open || part.kind === 'call') return [];
    open.text += part.text;
    const logProbs = open.kind === 'content' ? this.#untold : [];
    this.#untold = [];
    open.logProbs.push(...logProbs);
    return [{ type: `${TEXT_EVENTS[open.kind]}.delta`, ...this.#place(open, logProbs), delta: part.text }];
  }

  #close(): Told[] {
    const open = this.#open;
    if (!open) return [];
    if (open.kind === 'content') open.logProbs.push(...this.#untold.splice(0));
    const place = this.#place(open, open.logProbs);
    const text = open.kind === 'call' ? { arguments: open.text, name: open.call?.name } : { text: open.text };
    const done: Told[] = [{ type: `${TEXT_EVENTS[open.kind]}.done`, ...place, ...text }];
    if (open.kind === 'content') {
      done.push({ type: 'response.content_part.done', ...place, part: textPart(open) });
    }
    const item = itemOf(open, 'completed');
    done.push({ type: 'response.output_item.done', output_index: this.closed.length, item });
    this.closed.push(item);
    this.#open = undefined;
    return done;
  }

  #place({ kind, id }: OpenItem, logprobs: readonly TokenLogProbs[]): object {
    const place = { item_id: id, output_index: this.closed.length };
    return kind === 'call'
      ? place
      : { ...place, content_index: 0, ...(kind === 'content' ? { logprobs } : {}) };
  }
}

const TEXT_EVENTS = {
  content: 'response.output_text',
  reasoning: 'response.reasoning_text',
  call: 'response.function_call_arguments',
} as const;

function itemOf(open: OpenItem, status: 'in_progress' | 'completed'): object {
  const { kind, id, call, text } = open;
  const isBegun = status === 'in_progress';
  if (kind === 'content') return messageItem(id, isBegun ? undefined : open, status);
  if (kind === 'reasoning') return reasoningItem(id, isBegun ? undefined : text);
  return callItem(id, { id: call?.id ?? '', name: call?.name ?? '', given: text }, status);
}
