// An engine of tokens that says what it is told to, so that what becomes of them can be tested by itself.

import { present } from '../../offload/errors.js';
import type { OperatingError } from '../../offload/index.js';
import type { GenerationRequest } from '../../src/engine/request.js';
import type { TokenEngine } from '../../src/library/text-request.js';

type Submission = ReturnType<TokenEngine['submit']>;
type Reason = 'stop' | 'length' | 'cancelled';

interface Said {
  readonly token: number;
  readonly logProb?: number;
}

/** One request, whose tokens are said from outside. */
export class ScriptedText implements Submission {
  readonly request: GenerationRequest;
  readonly result: Submission['result'];
  readonly #said: Said[] = [];
  #wake: () => void = () => undefined;
  #isOver = false;
  #resolve: (result: Awaited<Submission['result']>) => void = () => undefined;
  cancels = 0;

  constructor(request: GenerationRequest) {
    this.request = request;
    this.result = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** Tokens as an engine says them: whoever wants to end after one is asked first. */
  say(...tokens: readonly number[]): void {
    for (const token of tokens) {
      if (this.#isOver) return;
      this.#said.push({ token, ...(this.request.logProbs ? { logProb: -token / 1000 } : {}) });
      if (this.request.stopsAfter?.(token)) this.end('stop');
    }
    this.#wake();
  }

  end(finishReason: Reason): void {
    this.#isOver = true;
    this.#resolve({ index: 0, sample: 0, tokens: [], finishReason });
    this.#wake();
  }

  fail(problem: OperatingError): void {
    this.#isOver = true;
    this.#resolve({ index: 0, sample: 0, tokens: [], finishReason: 'error', problem });
    this.#wake();
  }

  cancel(): void {
    this.cancels++;
    if (!this.#isOver) this.end('cancelled');
  }

  get tokens(): AsyncIterable<Said> {
    return this.#iterate();
  }

  async *#iterate(): AsyncGenerator<Said> {
    for (let next = 0; ; ) {
      const said = this.#said[next];
      if (said) {
        next++;
        yield said;
      } else if (this.#isOver) return;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}

export class ScriptedEngine implements TokenEngine {
  readonly texts: ScriptedText[] = [];
  #waiting: (() => void)[] = [];
  closes = 0;

  submit(request: GenerationRequest): Submission {
    const text = new ScriptedText(request);
    this.texts.push(text);
    for (const resolve of this.#waiting.splice(0)) resolve();
    return text;
  }

  async close(): Promise<void> {
    this.closes++;
  }

  /** Once it was submitted. */
  async text(index: number): Promise<ScriptedText> {
    while (this.texts.length <= index) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    return present(this.texts[index], 'text');
  }
}
