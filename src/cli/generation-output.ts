// Where generated tokens go: streamed as text, printed prompt by prompt, or written as JSON lines.

import { type OperatingError, present } from '../../offload/index.js';
import type { GenerationResult } from '../generate.js';
import type { JsonLines } from '../output-file.js';
import type { EncodedPrompt } from '../prompts.js';
import { promptEnd, StoppingStream } from '../stop-strings.js';
import { TextStream } from '../text-stream.js';
import type { Tokenizer } from '../tokenizer.js';

/** Texts are known by their place among all of them: prompt by prompt, and sample by sample within each. */
export interface GenerationSink {
  onToken(place: number, token: number): void;
  onFinished(place: number, result: GenerationResult): void;
  /** There will be no text. */
  onFailed(place: number, problem: OperatingError): void;
  /** No more will come, be it for an error. */
  end(): void;
}

type Write = (text: string) => void;
type Stream = Pick<TextStream, 'push' | 'end'>;

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

  prompt({ text, tokens }: EncodedPrompt): string {
    return text ?? tokens.join(' ');
  }

  /** What is to be written between the prompt and its continuation. */
  get joint(): string {
    if (this.#isChat) return '\n';
    return this.isText ? '' : ' ';
  }

  stream({ tokens }: EncodedPrompt): Stream {
    if (this.#tokenizer) {
      const before = promptEnd(this.#tokenizer, tokens, this.#stopStrings);
      return new StoppingStream(new TextStream(this.#tokenizer, [...tokens]), this.#stopStrings, before);
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
  #open: { readonly place: number; readonly stream: Stream | undefined } | undefined;

  constructor(prompts: readonly EncodedPrompt[], rendering: Rendering, write: Write, bare: boolean) {
    this.#prompts = prompts;
    this.#rendering = rendering;
    this.#write = write;
    this.#bare = bare;
  }

  onToken(place: number, token: number): void {
    const text = this.#streamOf(place)?.push(token);
    if (text) this.#write(text);
  }

  onFinished(place: number, { problem }: Pick<GenerationResult, 'problem'>): void {
    this.#streamOf(place);
    this.end();
    // A text without a prompt above it is the only one, and its problem ends the run.
    if (problem && !this.#bare) this.onFailed(place, problem);
  }

  onFailed(place: number, problem: OperatingError): void {
    this.#write(failureText(this.#rendering, present(this.#prompts[place], 'prompt'), problem));
  }

  end(): void {
    const stream = this.#open?.stream;
    this.#open = undefined;
    if (stream) this.#write(`${stream.end()}\n${this.#bare ? '' : '\n'}`);
  }

  #streamOf(place: number): Stream | undefined {
    if (this.#open?.place === place) return this.#open.stream;
    const prompt = present(this.#prompts[place], 'prompt');
    const shown = this.#rendering.prompt(prompt);
    const fresh = isFresh(this.#seen, shown, prompt);
    if (fresh && !this.#bare) this.#write(`${RULE}\nin=${shown}\nout=${shown}${this.#rendering.joint}`);
    this.#open = { place, stream: fresh ? this.#rendering.stream(prompt) : undefined };
    return this.#open.stream;
  }
}

/** In the layout of transformers-bloom-inference: each distinct prompt once, in the order of the input. */
export class BatchSink implements GenerationSink {
  readonly #prompts: readonly EncodedPrompt[];
  readonly #rendering: Rendering;
  readonly #write: Write;
  readonly #seen = new Set<string>();
  readonly #done: ReadonlySet<number>;
  readonly #waiting = new Map<number, GenerationResult | OperatingError>();
  #next = 0;

  /** @param done places of texts that were made before, and are not shown again */
  constructor(
    prompts: readonly EncodedPrompt[],
    rendering: Rendering,
    write: Write,
    done: ReadonlySet<number>,
  ) {
    this.#prompts = prompts;
    this.#rendering = rendering;
    this.#write = write;
    this.#done = done;
  }

  onToken(): void {}

  onFinished(place: number, result: GenerationResult): void {
    this.#show(place, result);
  }

  onFailed(place: number, problem: OperatingError): void {
    this.#show(place, problem);
  }

  end(): void {}

  #show(place: number, result: GenerationResult | OperatingError): void {
    this.#waiting.set(place, result);
    for (let ready = this.#take(); ready; ready = this.#take()) this.#print(this.#next - 1, ready);
  }

  #take(): GenerationResult | OperatingError | undefined {
    while (this.#done.has(this.#next)) this.#next++;
    const result = this.#waiting.get(this.#next);
    if (result && this.#waiting.delete(this.#next)) this.#next++;
    return result;
  }

  #print(place: number, result: GenerationResult | OperatingError): void {
    const prompt = present(this.#prompts[place], 'prompt');
    if ('code' in result) {
      this.#write(failureText(this.#rendering, prompt, result));
      return;
    }
    const { tokens, problem } = result;
    const shown = this.#rendering.prompt(prompt);
    if (isFresh(this.#seen, shown, prompt)) {
      const out = `${shown}${this.#rendering.joint}${this.#rendering.continuation(prompt, tokens)}`;
      this.#write(`${RULE}\nin=${shown}\nout=${out}\n\n`);
    }
    if (problem) this.#write(failureText(this.#rendering, prompt, problem));
  }
}

function failureText(rendering: Rendering, prompt: EncodedPrompt, { code, message }: OperatingError): string {
  return `${RULE}\nin=${rendering.prompt(prompt)}\nerror=${code}: ${message}\n\n`;
}

/** Remembers a prompt; false for one that was there before, unless several texts are wanted for it. */
function isFresh(seen: Set<string>, shown: string, { sample = 0 }: EncodedPrompt): boolean {
  const key = `${sample} ${shown}`;
  const fresh = !seen.has(key);
  seen.add(key);
  return fresh;
}

type Lines = Pick<JsonLines, 'write' | 'close'>;

/** A line per text as it finishes. */
export class JsonLinesSink implements GenerationSink {
  readonly #prompts: readonly EncodedPrompt[];
  readonly #rendering: Rendering;
  readonly #file: Lines;

  /** @param file open */
  constructor(prompts: readonly EncodedPrompt[], rendering: Rendering, file: Lines) {
    this.#prompts = prompts;
    this.#rendering = rendering;
    this.#file = file;
  }

  onToken(): void {}

  onFinished(place: number, { tokens, finishReason, problem }: GenerationResult): void {
    this.#write(place, tokens, finishReason, problem);
  }

  onFailed(place: number, problem: OperatingError): void {
    this.#write(place, [], 'error', problem);
  }

  #write(place: number, tokens: readonly number[], finishReason: string, problem?: OperatingError): void {
    const prompt = present(this.#prompts[place], 'prompt');
    this.#file.write({
      index: prompt.index,
      ...(prompt.sample === undefined ? {} : { sample: prompt.sample }),
      prompt: prompt.text ?? null,
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
