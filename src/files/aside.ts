// Work on another thread as a function that is awaited: what takes long there holds up nobody here.

import { parentPort, Worker } from 'node:worker_threads';

interface Question<Q> {
  readonly id: number;
  readonly question: Q;
}

interface Answer<A> {
  readonly id: number;
  /** Undefined where its work has thrown. */
  readonly answer?: A;
  readonly problem?: string;
}

interface Waiting<A> {
  readonly resolve: (answer: A) => void;
  readonly reject: (error: Error) => void;
}

/** A thread that nobody has asked anything for so long ends. */
const IDLE_MS = 60_000;

/** Its thread begins with the first question, and holds up no program that wants to end. */
export class Aside<Q, A> {
  readonly #script: URL;
  readonly #waiting = new Map<number, Waiting<A>>();
  #worker: Worker | undefined;
  #next = 1;
  #idle: NodeJS.Timeout | undefined;

  /** @param script a file beside the one whose `import.meta.url` is given, which calls `answerAside` */
  constructor(script: string, here: string) {
    this.#script = scriptBeside(script, here);
  }

  /** Rejects where the work has thrown, or the thread was lost. @param moved is the thread's alone from now on */
  ask(question: Q, moved: readonly ArrayBuffer[] = []): Promise<A> {
    const worker = this.#begun();
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      worker.ref();
      worker.postMessage({ id, question } satisfies Question<Q>, [...moved]);
    });
  }

  #begun(): Worker {
    clearTimeout(this.#idle);
    if (this.#worker) return this.#worker;
    const worker = new Worker(this.#script);
    this.#worker = worker;
    worker.on('message', (answer: Answer<A>) => this.#settle(answer));
    worker.on('error', (error) => this.#lose(worker, error));
    worker.on('exit', () => this.#lose(worker, new Error('the thread has ended')));
    return worker;
  }

  #settle({ id, answer, problem }: Answer<A>): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (this.#waiting.size === 0) this.#rest();
    if (problem === undefined) waiting?.resolve(answer as A);
    else waiting?.reject(new Error(problem));
  }

  #rest(): void {
    const worker = this.#worker;
    worker?.unref();
    this.#idle = setTimeout(() => {
      this.#worker = undefined;
      void worker?.terminate();
    }, IDLE_MS);
    this.#idle.unref();
  }

  /** Whoever asks next gets a new one. */
  #lose(worker: Worker, error: Error): void {
    if (worker !== this.#worker) return;
    this.#worker = undefined;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

/** What is compiled runs; sources are run by tests alone, and threads take what they were compiled to. */
export function scriptBeside(script: string, here: string): URL {
  const at = here.endsWith('.ts') ? here.lastIndexOf('/src/') : -1;
  return new URL(script, at < 0 ? here : `${here.slice(0, at)}/dist${here.slice(at)}`);
}

/** In the script: says what is answered. */
export function answerAside<Q, A>(answer: (question: Q) => Promise<A> | A): void {
  parentPort?.on('message', async ({ id, question }: Question<Q>) => {
    try {
      parentPort?.postMessage({ id, answer: await answer(question) } satisfies Answer<A>);
    } catch (error) {
      const problem = error instanceof Error ? error.message : String(error);
      parentPort?.postMessage({ id, problem } satisfies Answer<A>);
    }
  });
}
