// Answers: a conversation becomes a prompt by the checkpoint's template, and the model's tokens become text as they come.

import { counted, OperatingError } from '../../../offload/index.js';
import type { Engine } from '../../engine/engine.js';
import type { FinishReason } from '../../engine/request.js';
import { isGreedy, type SamplingSettings } from '../../engine/sampler.js';
import type { ChatTemplate, Message } from '../../text/chat.js';
import { promptEnd, StoppingDecoder } from '../../text/stop-strings.js';
import { IncrementalDecoder } from '../../text/text-decoder.js';
import { encodeLongText } from '../../text/tokenizer/long-text.js';
import type { Tokenizer } from '../../text/tokenizer/tokenizer.js';

export interface AnswerOptions {
  /** Stops it: what is there is the answer. */
  readonly signal: AbortSignal;
  readonly onText: (piece: string) => void;
}

export interface Answer {
  readonly text: string;
  readonly finishReason: FinishReason;
  readonly promptTokens: number;
  readonly newTokens: number;
}

export interface Answerer {
  /** Throws BAD_INPUT where the template refuses the messages, PROMPT_TOO_LONG, and what goes wrong in computing. */
  answer(messages: readonly Message[], options: AnswerOptions): Promise<Answer>;
}

export interface AnswererParts {
  /** The history's keys and values are found again in it. */
  readonly engine: Pick<Engine, 'submit'>;
  readonly template: ChatTemplate;
  readonly tokenizer: Tokenizer;
  readonly endTokens: ReadonlySet<number>;
  readonly sampling: SamplingSettings;
  readonly stopStrings: readonly string[];
  /** Tokens of conversation and answer together, and of an answer. */
  readonly contextTokens: number;
  readonly maxNewTokens: number | undefined;
}

export class EngineAnswerer implements Answerer {
  readonly #parts: AnswererParts;
  /** Which of the conversation's draws this is: the same again only with the same seed and the same past. */
  #answers = 0;

  constructor(parts: AnswererParts) {
    this.#parts = parts;
  }

  async answer(messages: readonly Message[], { signal, onText }: AnswerOptions): Promise<Answer> {
    const { engine, template, tokenizer, endTokens, sampling, stopStrings } = this.#parts;
    const prompt = template.render(messages);
    const promptTokens = await encodeLongText(tokenizer, [prompt], { bare: true });
    const maxNewTokens = this.#roomBehind(promptTokens.length);
    const before = promptEnd(tokenizer, promptTokens, stopStrings);
    const decoder = new StoppingDecoder(
      new IncrementalDecoder(tokenizer, [...promptTokens]),
      stopStrings,
      before,
    );
    let [text, newTokens] = ['', 0];
    const show = (piece: string) => {
      text += piece;
      if (piece !== '') onText(piece);
    };
    const submission = engine.submit({
      index: 0,
      randomIndex: this.#answers++,
      promptTokens,
      maxNewTokens,
      stopTokens: endTokens,
      ...(isGreedy(sampling) ? {} : { sampling }),
      // Told of each token as soon as it is known.
      stopsAfter: (token) => {
        newTokens++;
        show(decoder.push(token));
        return decoder.stopped;
      },
    });
    const cancel = () => submission.cancel();
    signal.addEventListener('abort', cancel);
    if (signal.aborted) cancel();
    const { finishReason, problem } = await submission.result.finally(() => {
      signal.removeEventListener('abort', cancel);
    });
    if (problem) throw problem;
    show(decoder.end());
    return { text, finishReason, promptTokens: promptTokens.length, newTokens };
  }

  #roomBehind(promptTokens: number): number {
    const { contextTokens, maxNewTokens = contextTokens } = this.#parts;
    const room = contextTokens - promptTokens;
    if (promptTokens === 0)
      throw new OperatingError('EMPTY_PROMPT', 'the chat template makes nothing of the messages');
    if (room >= 1) return Math.min(room, maxNewTokens);
    throw new OperatingError(
      'PROMPT_TOO_LONG',
      `the conversation has ${counted(promptTokens, 'token')}, and there is room for ${contextTokens} with the answer`,
    );
  }
}
