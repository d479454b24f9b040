// Requests that workers answer: each is put into the queue under a name of its own, waited for, and put there again if it gets lost.

import { OperatingError } from '../../offload/index.js';
import { type ChunkQueue, openQueue, resultsOf } from './bull.js';
import type { QueueConnection } from './connection.js';
import { asked, createJob, type JobRecord, readJob } from './record.js';

const LOOK_MS = 100;
/** So often it is looked whether the server still has what is waited for. */
const CHECK_MS = 5000;
/** Answers that nobody fetches, as those of a server that never came back, are kept for so long. */
const KEPT_SECONDS = 7 * 24 * 3600;

export interface RequestOptions {
  readonly record: JobRecord;
  /** Requests that are open may take so much of the server's memory; others wait. */
  readonly roomBytes: number;
  /** Told that the server has lost something, which it is given again. */
  readonly tell: (sentence: string) => void;
  readonly checkMs?: number;
}

export interface RequestAsking {
  /** Letters, digits, dashes and underscores: whoever asks by a name that the server knows gets the answer to that. */
  readonly name: string;
  readonly signal: AbortSignal;
  /** Before those that are not urgent. */
  readonly isUrgent: boolean;
  /** The next process asks for it again by its name, so that it stays in the queue when this one ends. */
  readonly outlives: boolean;
}

interface OpenRequest<Q> extends Omit<RequestAsking, 'signal'> {
  readonly request: Q;
  readonly bytes: number;
  readonly resolve: (answer: unknown) => void;
  readonly reject: (reason: unknown) => void;
}

/** What makes answers that are there be fetched. Its failure is that of all who wait. */
export class RequestQueue<Q> {
  readonly #connection: QueueConnection;
  readonly #options: RequestOptions;
  readonly #queue: ChunkQueue<Q>;
  readonly #open = new Map<string, OpenRequest<Q>>();
  /** Nobody waits for these any more, and a worker has them. */
  readonly #abandoned = new Set<string>();
  /** Those who wait for room. */
  readonly #waiting = new Set<() => void>();
  #openBytes = 0;
  #isLeaving = false;
  #isClosed = false;
  #failure: { readonly error: unknown } | undefined;
  /** Rejects with what ends it, but for its closing. */
  readonly ended: Promise<void>;

  constructor(connection: QueueConnection, options: RequestOptions) {
    this.#connection = connection;
    this.#options = options;
    this.#queue = openQueue<Q>(connection, options.record.id);
    this.ended = this.#fetch();
    this.ended.catch((error: unknown) => this.#fail(error));
  }

  /** Requests that outlive this process stay in the queue from now on; others are still answered, until `close`. */
  leave(): void {
    this.#isLeaving = true;
  }

  close(): void {
    this.leave();
    this.#isClosed = true;
  }

  /** What a worker answers. Rejects with the signal's reason, or with what has ended the queue. */
  async ask(request: Q, { signal, ...asking }: RequestAsking): Promise<unknown> {
    const bytes = JSON.stringify(request).length;
    // One that is larger than all of the room goes when it is alone.
    while (this.#openBytes > 0 && this.#openBytes + bytes > this.#options.roomBytes) {
      await this.#room(signal);
    }
    this.#check(signal);
    const { name } = asking;
    let forget: () => void = () => undefined;
    this.#openBytes += bytes;
    try {
      return await new Promise((resolve, reject) => {
        const onAbort = () => reject(signal.reason);
        signal.addEventListener('abort', onAbort, { once: true });
        forget = () => signal.removeEventListener('abort', onAbort);
        const one = { ...asking, request, bytes, resolve, reject };
        this.#open.set(name, one);
        this.#put([one]).catch(reject);
      });
    } finally {
      forget();
      this.#open.delete(name);
      this.#openBytes -= bytes;
      for (const wake of [...this.#waiting]) wake();
      const stays = signal.aborted && this.#isLeaving && asking.outlives;
      // Whoever was answered writes that down before this turn ends. What a worker has begun is left to it.
      if (!stays && !this.#failure) setImmediate(() => this.#remove(name));
    }
  }

  #check(signal: AbortSignal): void {
    signal.throwIfAborted();
    if (this.#failure) throw this.#failure.error;
  }

  async #room(signal: AbortSignal): Promise<void> {
    this.#check(signal);
    await new Promise<void>((resolve) => {
      const wake = () => {
        this.#waiting.delete(wake);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener('abort', wake, { once: true });
    });
  }

  /** Nothing changes for those that the server has. */
  async #put(some: readonly OpenRequest<Q>[]): Promise<void> {
    await this.#connection.ask(() =>
      this.#queue.addBulk(
        some.map(({ name, request, isUrgent }) => ({
          name: 'request',
          data: { prompts: [[0, request] as const] },
          opts: { jobId: name, lifo: isUrgent, removeOnComplete: { age: KEPT_SECONDS } },
        })),
      ),
    );
  }

  #remove(name: string): void {
    if (this.#open.has(name)) return;
    this.#connection
      .ask(() => this.#queue.remove(name, { removeChildren: false }))
      .then((removed) => {
        if (removed === 0) this.#abandoned.add(name);
      })
      .catch(() => undefined);
  }

  async #fetch(): Promise<void> {
    for (let checkedMs = performance.now(); !this.#isClosed; ) {
      await this.#connection.pause(LOOK_MS);
      if (this.#open.size + this.#abandoned.size === 0) continue;
      const ids = await this.#connection.ask(() => this.#queue.getRanges(['completed'], 0, -1, true));
      const wanted = ids.filter((id) => this.#open.has(id));
      for (const { id, result } of await resultsOf(this.#connection, this.#queue, wanted)) {
        this.#open.get(id)?.resolve(result.lines[0]);
      }
      for (const name of ids.filter((id) => this.#abandoned.delete(id))) this.#remove(name);
      if (performance.now() - checkedMs < (this.#options.checkMs ?? CHECK_MS)) continue;
      await this.#putLost();
      checkedMs = performance.now();
    }
  }

  /** A server that was restarted without its data, or with some of it, is given what it lacks. */
  async #putLost(): Promise<void> {
    const { record, tell } = this.#options;
    const { address } = this.#connection;
    const job = await readJob(asked(this.#connection));
    if (job === undefined) await createJob(asked(this.#connection), record);
    else if (job.record.id !== record.id) {
      throw new OperatingError(
        'QUEUE_FAILED',
        `job ${address.job} at ${address.shown} is another one now: give this server another --job`,
      );
    }
    const open = [...this.#open];
    const found = await this.#connection.ask(() => {
      const questions = this.#connection.redis.pipeline();
      for (const [name] of open) questions.exists(this.#queue.toKey(name));
      return questions.exec();
    });
    const lost = open.filter(([name, one], i) => found?.[i]?.[1] === 0 && this.#open.get(name) === one);
    if (lost.length === 0) return;
    tell(`the queue at ${address.shown} has lost ${lost.length} requests, which are given to it again`);
    await this.#put(lost.map(([, one]) => one));
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    for (const { reject } of [...this.#open.values()]) reject(error);
    for (const wake of [...this.#waiting]) wake();
  }
}
