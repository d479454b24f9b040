// One thread for grammars as others see it: commands with answers, and an end where one takes too long.

import { Worker } from 'node:worker_threads';
import { scriptBeside } from '../files/aside.js';
import type { Answer, Command } from './messages.js';
import { PROGRESS } from './messages.js';

/** A thread ended before it had answered; `hung` where it had worked on one thing for too long. */
export class ThreadLost extends Error {
  readonly hung: boolean;
  /** What it worked on. */
  readonly command: number;
  readonly matcher: number;

  constructor(cause: string, at: { hung: boolean; command: number; matcher: number }) {
    super(cause);
    this.hung = at.hung;
    this.command = at.command;
    this.matcher = at.matcher;
  }
}

interface Waiting {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: ThreadLost) => void;
}

export class GrammarThread {
  readonly #worker: Worker;
  readonly #progress = new Int32Array(new SharedArrayBuffer(PROGRESS.words * Int32Array.BYTES_PER_ELEMENT));
  readonly #waiting = new Map<number, Waiting>();
  readonly #mostMs: number;
  #next = 1;
  #timer: NodeJS.Timeout | undefined;
  #lost: ThreadLost | undefined;

  /** @param mostMs one command may take */
  constructor(mostMs: number) {
    this.#mostMs = mostMs;
    this.#worker = new Worker(scriptBeside('./worker.js', import.meta.url), {
      workerData: { progress: this.#progress.buffer },
      resourceLimits: { maxOldGenerationSizeMb: 1024 },
    });
    this.#worker.unref();
    this.#worker.on('message', (answer: Answer) => this.#settle(answer));
    this.#worker.on('error', (error) => this.#lose(error.message, false));
    this.#worker.on('exit', () => this.#lose('the thread has ended', false));
  }

  get isLost(): boolean {
    return this.#lost !== undefined;
  }

  /** The number that its command will have, as ThreadLost names it. */
  get nextCommand(): number {
    return this.#next;
  }

  /** Rejects with ThreadLost. */
  run(command: Command): Promise<Answer> {
    if (this.#lost) return Promise.reject(this.#lost);
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      if (this.#waiting.size === 0) this.#watch();
      this.#waiting.set(id, { resolve, reject });
      this.#worker.ref();
      this.#worker.postMessage({ id, command });
    });
  }

  end(): Promise<number> {
    this.#lose('the thread was ended', false);
    return this.#worker.terminate();
  }

  #settle(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    clearTimeout(this.#timer);
    if (this.#waiting.size > 0) this.#watch();
    else this.#worker.unref();
    waiting?.resolve(answer);
  }

  #watch(): void {
    this.#timer = setTimeout(() => {
      this.#lose(`it took longer than ${this.#mostMs / 1000} s`, true);
      void this.#worker.terminate();
    }, this.#mostMs);
    this.#timer.unref();
  }

  #lose(cause: string, hung: boolean): void {
    if (this.#lost) return;
    clearTimeout(this.#timer);
    const [command = 0, matcher = 0] = this.#progress;
    this.#lost = new ThreadLost(cause, { hung, command, matcher });
    for (const { reject } of this.#waiting.values()) reject(this.#lost);
    this.#waiting.clear();
  }
}
