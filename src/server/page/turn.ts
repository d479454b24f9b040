// One text on its way: its button becomes one that stops it, and its figures are shown as it grows.

import { duration, few, whole } from '../../drawing/numbers.js';
import { byId } from './dom.js';
import { ask, eventsOf } from './server-access.js';

export interface TurnElements {
  readonly button: string;
  readonly figures: string;
  readonly idle: string;
}

/** What a chunk of a stream may have. */
export interface Chunk {
  readonly choices?: readonly {
    readonly text?: string;
    readonly delta?: { readonly content?: string | null; readonly reasoning_content?: string | null };
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: { readonly completion_tokens?: number } | null;
  readonly error?: { readonly message?: string };
}

export class Turn {
  readonly #elements: TurnElements;
  #stop: AbortController | undefined;

  constructor(elements: TurnElements) {
    this.#elements = elements;
  }

  get isRunning(): boolean {
    return this.#stop !== undefined;
  }

  stop(): void {
    this.#stop?.abort();
  }

  /** Resolves when the text ends or is stopped. Rejects with what the server refuses. */
  async run(path: string, body: object, onChunk: (chunk: Chunk) => void): Promise<void> {
    const stop = new AbortController();
    this.#stop = stop;
    const button = byId(this.#elements.button, HTMLButtonElement);
    button.textContent = 'Stop';
    button.classList.add('stop');
    const figures = new Figures(byId(this.#elements.figures, HTMLElement));
    try {
      const request = { ...body, stream: true, stream_options: { include_usage: true } };
      for await (const data of eventsOf(await ask(path, request, stop.signal))) {
        if (data === '[DONE]') break;
        const chunk = JSON.parse(data) as Chunk;
        if (chunk.error) throw new Error(chunk.error.message ?? 'the text could not be made');
        figures.take(chunk);
        onChunk(chunk);
      }
    } catch (error) {
      if (!stop.signal.aborted) throw error;
    } finally {
      this.#stop = undefined;
      button.textContent = this.#elements.idle;
      button.classList.remove('stop');
      figures.end();
    }
  }
}

/** Time to the first token, and how fast others followed. */
class Figures {
  readonly #shown: HTMLElement;
  readonly #startMs = performance.now();
  #firstMs: number | undefined;
  #chunks = 0;
  #tokens: number | undefined;

  constructor(shown: HTMLElement) {
    this.#shown = shown;
    shown.textContent = 'waiting for the first token';
  }

  take({ choices = [], usage }: Chunk): void {
    if (usage?.completion_tokens !== undefined) this.#tokens = usage.completion_tokens;
    if (!choices.some(({ text, delta }) => text || delta?.content || delta?.reasoning_content)) return;
    this.#firstMs ??= performance.now();
    this.#chunks++;
  }

  end(): void {
    if (this.#firstMs === undefined) {
      this.#shown.textContent = '';
      return;
    }
    const tokens = this.#tokens ?? this.#chunks;
    const seconds = (performance.now() - this.#firstMs) / 1e3;
    const rate = tokens > 1 && seconds > 0 ? ` · ${few((tokens - 1) / seconds)} tokens/s` : '';
    const first = duration((this.#firstMs - this.#startMs) / 1e3);
    this.#shown.textContent = `${whole(tokens)} ${tokens === 1 ? 'token' : 'tokens'} · first after ${first}${rate}`;
  }
}
