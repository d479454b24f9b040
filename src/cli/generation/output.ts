// Where generated tokens go: streamed as text, printed prompt by prompt, or written as JSON lines.

import type { OperatingError } from '../../../offload/index.js';
import type { GenerationResult } from '../../engine/request.js';
import type { JsonLines } from '../../files/json-lines-file.js';
import { promptEnd, StoppingDecoder } from '../../text/stop-strings.js';
import { IncrementalDecoder } from '../../text/text-decoder.js';
import type { Tokenizer } from '../../text/tokenizer/tokenizer.js';
import type { EncodedPrompt } from './prompts.js';

/** One of the texts of a run. */
export interface Text {
  /** Among all of them: prompt by prompt, and sample by sample within each. */
  readonly place: number;
  readonly prompt: EncodedPrompt;
}

export interface GenerationSink {
  onToken(text: Text, token: number): void;
  onFinished(text: Text, result: GenerationResult): void;
  /** There will be no text. */
  onFailed(text: Text, problem: OperatingError): void;
  /** No more will come, be it for an error. */
  end(): void;
}

type Write = (text: string) => void;
type Decoder = Pick<IncrementalDecoder, 'push' | 'end'>;

/** Tokens as text; as numbers with spaces between them where no tokenizer knows better. */
export class Rendering {
  readonly #tokenizer: Tokenizer | undefined;
  readonly #stopStrings: readonly string[];
  readonly #isChat: boolean;

  /** @param isChat the text answers the prompt, rather than going on with it */
  constructor(tokenizer: Tokenizer | undefined, stopStrings: readonly string[] = [], isChat = false) {
    this.#tokenizer = tokenizer;
    this.#stopStrings = stopStrings;
    this.#isChat = isChat;
  }

  get isText(): boolean {
    return this.#tokenizer !== undefined;
  }

  prompt({ text, messages, tokens }: EncodedPrompt): string {
    return text ?? messages?.at(-1)?.content ?? tokens.join(' ');
  }

  /** What is to be written between the prompt and its continuation. */
  joint({ messages }: EncodedPrompt): string {
    if (this.#isChat || messages) return '\n';
    return this.isText ? '' : ' ';
  }

  decoder({ tokens, own }: EncodedPrompt): Decoder {
    if (this.#tokenizer) {
      const stopStrings = own?.stopStrings ?? this.#stopStrings;
      const before = promptEnd(this.#tokenizer, tokens, stopStrings);
      return new StoppingDecoder(new IncrementalDecoder(this.#tokenizer, [...tokens]), stopStrings, before);
    }
    let between = '';
    const push = (token: number) => {
      const text = `${between}${token}`;
      between = ' ';
      return text;
    };
    return { push, end: () => '' };
  }

  continuation(prompt: EncodedPrompt, tokens: readonly number[]): string {
    const decoder = this.decoder(prompt);
    return tokens.map((token) => decoder.push(token)).join('') + decoder.end();
  }
}

const RULE = '-'.repeat(60);

/** One prompt at a time, as it is generated: bare, or below its prompt. */
export class StreamingSink implements GenerationSink {
  readonly #rendering: Rendering;
  readonly #write: Write;
  readonly #bare: boolean;
  #open: { readonly place: number; readonly decoder: Decoder } | undefined;

  constructor(rendering: Rendering, write: Write, bare: boolean) {
    this.#rendering = rendering;
    this.#write = write;
    this.#bare = bare;
  }

  onToken(text: Text, token: number): void {
    const piece = this.#decoderOf(text).push(token);
    if (piece) this.#write(piece);
  }

  onFinished(text: Text, { problem }: Pick<GenerationResult, 'problem'>): void {
    this.#decoderOf(text);
    this.end();
    // A text without a prompt above it is the only one, and its problem ends the run.
    if (problem && !this.#bare) this.onFailed(text, problem);
  }

  onFailed({ prompt }: Text, problem: OperatingError): void {
    this.#write(failureText(this.#rendering, prompt, problem));
  }

  end(): void {
    const decoder = this.#open?.decoder;
    this.#open = undefined;
    if (decoder) this.#write(`${decoder.end()}\n${this.#bare ? '' : '\n'}`);
  }

  #decoderOf({ place, prompt }: Text): Decoder {
    if (this.#open?.place === place) return this.#open.decoder;
    const shown = this.#rendering.prompt(prompt);
    if (!this.#bare) this.#write(`${RULE}\nin=${shown}\nout=${shown}${this.#rendering.joint(prompt)}`);
    this.#open = { place, decoder: this.#rendering.decoder(prompt) };
    return this.#open.decoder;
  }
}

export interface ShownPlaces {
  /** The text of this place was made before, or belongs to another share: it is not shown. Below `texts` alone. */
  readonly isElsewhere: (place: number) => boolean;
  readonly texts: number;
  /** So many come first; the others are of the same prompts, to fill the batch. */
  readonly distinct: number;
}

/**
 * In the layout of transformers-bloom-inference, in the order of the input. A prompt that is only there to fill the
 * batch is shown where its text is another than that of the one it repeats.
 */
export class BatchSink implements GenerationSink {
  readonly #rendering: Rendering;
  readonly #write: Write;
  readonly #places: ShownPlaces;
  /** What is to be written, of texts that wait for one before them. */
  readonly #waiting = new Map<number, string>();
  /** By place: texts that others repeat. */
  readonly #originals = new Map<number, string>();
  #next = 0;

  constructor(rendering: Rendering, write: Write, places: ShownPlaces) {
    this.#rendering = rendering;
    this.#write = write;
    this.#places = places;
  }

  onToken(): void {}

  onFinished({ place, prompt }: Text, { tokens, problem }: GenerationResult): void {
    const shown = this.#rendering.prompt(prompt);
    const out = `${shown}${this.#rendering.joint(prompt)}${this.#rendering.continuation(prompt, tokens)}`;
    const failure = problem ? failureText(this.#rendering, prompt, problem) : '';
    this.#show(place, `${RULE}\nin=${shown}\nout=${out}\n\n${failure}`);
  }

  onFailed({ place, prompt }: Text, problem: OperatingError): void {
    this.#show(place, failureText(this.#rendering, prompt, problem));
  }

  end(): void {}

  #show(place: number, block: string): void {
    this.#waiting.set(place, block);
    for (; ; this.#next++) {
      while (this.#next < this.#places.texts && this.#places.isElsewhere(this.#next)) this.#next++;
      const ready = this.#waiting.get(this.#next);
      if (ready === undefined) return;
      this.#waiting.delete(this.#next);
      this.#print(this.#next, ready);
    }
  }

  #print(place: number, block: string): void {
    const { texts, distinct } = this.#places;
    if (place >= distinct && this.#originals.get(place % distinct) === block) return;
    if (place < distinct && texts > distinct) this.#originals.set(place, block);
    this.#write(block);
  }
}

function failureText(rendering: Rendering, prompt: EncodedPrompt, { code, message }: OperatingError): string {
  return `${RULE}\nin=${rendering.prompt(prompt)}\nerror=${code}: ${message}\n\n`;
}

type Lines = Pick<JsonLines, 'write' | 'close'>;

/** A line per text as it finishes. */
export class JsonLinesSink implements GenerationSink {
  readonly #rendering: Rendering;
  readonly #file: Lines;

  /** @param file open */
  constructor(rendering: Rendering, file: Lines) {
    this.#rendering = rendering;
    this.#file = file;
  }

  onToken(): void {}

  onFinished(text: Text, { tokens, finishReason, problem }: GenerationResult): void {
    this.#write(text, tokens, finishReason, problem);
  }

  onFailed(text: Text, problem: OperatingError): void {
    this.#write(text, [], 'error', problem);
  }

  #write({ prompt }: Text, tokens: readonly number[], finishReason: string, problem?: OperatingError): void {
    const { own, messages } = prompt;
    this.#file.write({
      index: prompt.index,
      ...(prompt.sample === undefined ? {} : { sample: prompt.sample }),
      ...(own?.id === undefined ? {} : { id: own.id }),
      prompt: prompt.text ?? null,
      ...(messages ? { messages } : {}),
      text: this.#rendering.isText && !prompt.problem ? this.#rendering.continuation(prompt, tokens) : null,
      token_ids: tokens,
      finish_reason: finishReason,
      prompt_tokens: prompt.tokens.length,
      new_tokens: tokens.length,
      ...(problem ? { error: { code: problem.code, message: problem.message } } : {}),
    });
  }

  end(): void {
    this.#file.close();
  }
}
