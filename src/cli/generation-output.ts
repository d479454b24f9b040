// Where generated tokens go: streamed as text, printed prompt by prompt, or written as JSON lines.

import { present } from '../../offload/index.js';
import type { GenerationResult } from '../generate.js';
import type { JsonLinesFile } from '../output-file.js';
import type { EncodedPrompt } from '../prompts.js';
import { TextStream } from '../text-stream.js';
import type { Tokenizer } from '../tokenizer.js';

export interface GenerationSink {
  onToken(index: number, token: number): void;
  onFinished(result: GenerationResult): void;
  /** No more will come, be it for an error. */
  end(): void;
}

type Write = (text: string) => void;
type Stream = Pick<TextStream, 'push' | 'end'>;

/** Tokens as text; as numbers with spaces between them where no tokenizer knows better. */
export class Rendering {
  readonly #tokenizer: Tokenizer | undefined;

  constructor(tokenizer: Tokenizer | undefined) {
    this.#tokenizer = tokenizer;
  }

  get isText(): boolean {
    return this.#tokenizer !== undefined;
  }

  prompt({ text, tokens }: EncodedPrompt): string {
    return text ?? tokens.join(' ');
  }

  /** What is to be written between the prompt and its continuation. */
  get joint(): string {
    return this.isText ? '' : ' ';
  }

  stream({ tokens }: EncodedPrompt): Stream {
    if (this.#tokenizer) return new TextStream(this.#tokenizer, [...tokens]);
    let between = '';
    const push = (token: number) => {
      const text = `${between}${token}`;
      between = ' ';
      return text;
    };
    return { push, end: () => '' };
  }

  continuation(prompt: EncodedPrompt, tokens: readonly number[]): string {
    const stream = this.stream(prompt);
    return tokens.map((token) => stream.push(token)).join('') + stream.end();
  }
}

const RULE = '-'.repeat(60);

/** One prompt at a time, as it is generated: bare, or below its prompt; what repeats is shown once. */
export class StreamingSink implements GenerationSink {
  readonly #prompts: readonly EncodedPrompt[];
  readonly #rendering: Rendering;
  readonly #write: Write;
  readonly #bare: boolean;
  readonly #seen = new Set<string>();
  #open: { readonly index: number; readonly stream: Stream | undefined } | undefined;

  constructor(prompts: readonly EncodedPrompt[], rendering: Rendering, write: Write, bare: boolean) {
    this.#prompts = prompts;
    this.#rendering = rendering;
    this.#write = write;
    this.#bare = bare;
  }

  onToken(index: number, token: number): void {
    const text = this.#streamOf(index)?.push(token);
    if (text) this.#write(text);
  }

  onFinished({ index }: GenerationResult): void {
    this.#streamOf(index);
    this.end();
  }

  end(): void {
    const stream = this.#open?.stream;
    this.#open = undefined;
    if (stream) this.#write(`${stream.end()}\n${this.#bare ? '' : '\n'}`);
  }

  #streamOf(index: number): Stream | undefined {
    if (this.#open?.index === index) return this.#open.stream;
    const prompt = present(this.#prompts[index], 'prompt');
    const shown = this.#rendering.prompt(prompt);
    const fresh = !this.#seen.has(shown);
    this.#seen.add(shown);
    if (fresh && !this.#bare) this.#write(`${RULE}\nin=${shown}\nout=${shown}${this.#rendering.joint}`);
    this.#open = { index, stream: fresh ? this.#rendering.stream(prompt) : undefined };
    return this.#open.stream;
  }
}

/** In the layout of transformers-bloom-inference: each distinct prompt once, in the order of the input. */
export class BatchSink implements GenerationSink {
  readonly #prompts: readonly EncodedPrompt[];
  readonly #rendering: Rendering;
  readonly #write: Write;
  readonly #seen = new Set<string>();
  readonly #waiting = new Map<number, GenerationResult>();
  #next = 0;

  constructor(prompts: readonly EncodedPrompt[], rendering: Rendering, write: Write) {
    this.#prompts = prompts;
    this.#rendering = rendering;
    this.#write = write;
  }

  onToken(): void {}

  onFinished(result: GenerationResult): void {
    this.#waiting.set(result.index, result);
    for (let ready = this.#take(); ready; ready = this.#take()) this.#print(ready);
  }

  end(): void {}

  #take(): GenerationResult | undefined {
    const result = this.#waiting.get(this.#next);
    if (result && this.#waiting.delete(this.#next)) this.#next++;
    return result;
  }

  #print({ index, tokens }: GenerationResult): void {
    const prompt = present(this.#prompts[index], 'prompt');
    const shown = this.#rendering.prompt(prompt);
    if (this.#seen.has(shown)) return;
    this.#seen.add(shown);
    const out = `${shown}${this.#rendering.joint}${this.#rendering.continuation(prompt, tokens)}`;
    this.#write(`${RULE}\nin=${shown}\nout=${out}\n\n`);
  }
}

/** A line per prompt as it finishes. */
export class JsonLinesSink implements GenerationSink {
  readonly #prompts: readonly EncodedPrompt[];
  readonly #rendering: Rendering;
  readonly #file: JsonLinesFile;

  constructor(prompts: readonly EncodedPrompt[], rendering: Rendering, file: JsonLinesFile) {
    this.#prompts = prompts;
    this.#rendering = rendering;
    this.#file = file;
    file.open();
  }

  onToken(): void {}

  onFinished({ index, tokens, finishReason }: GenerationResult): void {
    const prompt = present(this.#prompts[index], 'prompt');
    this.#file.write({
      index,
      prompt: prompt.text ?? null,
      text: this.#rendering.isText ? this.#rendering.continuation(prompt, tokens) : null,
      token_ids: tokens,
      finish_reason: finishReason,
      prompt_tokens: prompt.tokens.length,
      new_tokens: tokens.length,
    });
  }

  end(): void {
    this.#file.close();
  }
}
