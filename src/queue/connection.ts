// A connection to Redis that outlives the server: while that is away, whatever is asked waits, and somebody is told so.

import { Redis, type RedisOptions } from 'ioredis';
import { OperatingError } from '../../offload/index.js';
import type { QueueAddress } from './address.js';

/** A server that is cut off says nothing: so long after a question it counts as away. */
const SILENCE_MS = 15_000;
const MOST_PAUSE_MS = 5_000;
const REMIND_MS = 60_000;

/** Shared with the thread that renews leases. */
export const CONNECTION = {
  // What is asked is asked again after a reconnection, however long that takes.
  maxRetriesPerRequest: null,
  retryStrategy: (times: number) => Math.min(MOST_PAUSE_MS, 100 * 2 ** Math.min(times, 6)),
  connectTimeout: SILENCE_MS,
  socketTimeout: SILENCE_MS,
  keepAlive: SILENCE_MS,
} as const satisfies RedisOptions;

export interface ConnectionTold {
  /** Told in a sentence that the server is away, and that it is back. */
  readonly tell: (sentence: string) => void;
  readonly signal: AbortSignal;
}

/** A server that refuses this program will not take it later either. */
const REFUSALS = /WRONGPASS|NOAUTH|NOPERM|invalid password/i;
/** What passes by itself, or when somebody makes room. */
const PASSING = /^(OOM|LOADING|MISCONF|READONLY|TRYAGAIN|CLUSTERDOWN|MASTERDOWN|BUSY)\b/;

export class QueueConnection {
  readonly redis: Redis;
  readonly address: QueueAddress;
  readonly #told: ConnectionTold;
  #awaySince: number | undefined;
  #toldAt = 0;
  #isClosed = false;
  #refusal: OperatingError | undefined;
  /** Ends what is waited for: many questions may be open at once. */
  readonly #open = new Set<(reason: unknown) => void>();

  constructor(address: QueueAddress, told: ConnectionTold) {
    this.address = address;
    this.#told = told;
    told.signal.addEventListener('abort', () => this.#endAll(told.signal.reason), { once: true });
    this.redis = new Redis(address.url, { ...CONNECTION, connectionName: 'zero-inference' });
    this.redis.on('error', (error: Error) => this.#onAway(error.message || error.name));
    this.redis.on('close', () => this.#onAway('the connection was closed'));
    this.redis.on('ready', () => this.#onBack());
  }

  /** Another connection of the same kind, for whoever needs its own. */
  another(): Redis {
    const redis = this.redis.duplicate();
    redis.on('error', () => undefined);
    return redis;
  }

  /**
   * The answer, waited for as long as the server is away or full. Throws QUEUE_FAILED where it refuses this program, and the
   * signal's reason.
   */
  async ask<T>(question: () => Promise<T>): Promise<T> {
    for (;;) {
      this.#told.signal.throwIfAborted();
      try {
        return await this.#orStop(question());
      } catch (error) {
        const sentence = error instanceof Error ? error.message : String(error);
        if (REFUSALS.test(sentence)) throw this.#refused(sentence);
        if (!PASSING.test(sentence)) throw error;
        this.#onAway(sentence);
        await this.pause(1000);
        this.#onBack();
      }
    }
  }

  /** Rejects with the signal's reason. */
  pause(ms: number): Promise<void> {
    return this.#orStop(new Promise((resolve) => setTimeout(resolve, ms)));
  }

  async #orStop<T>(work: Promise<T>): Promise<T> {
    work.catch(() => undefined);
    if (this.#refusal) throw this.#refusal;
    this.#told.signal.throwIfAborted();
    let end: ((reason: unknown) => void) | undefined;
    const ended = new Promise<never>((_, reject) => {
      end = reject;
      this.#open.add(reject);
    });
    try {
      return await Promise.race([work, ended]);
    } finally {
      if (end) this.#open.delete(end);
    }
  }

  #endAll(reason: unknown): void {
    for (const end of [...this.#open]) end(reason);
  }

  close(): void {
    this.#isClosed = true;
    this.redis.disconnect();
  }

  #onAway(why: string): void {
    if (this.#isClosed) return;
    if (REFUSALS.test(why)) {
      this.#refusal = this.#refused(why);
      this.#endAll(this.#refusal);
      return;
    }
    const now = Date.now();
    this.#awaySince ??= now;
    if (this.#told.signal.aborted || now - this.#toldAt < REMIND_MS) return;
    this.#toldAt = now;
    this.#told.tell(`the queue at ${this.address.shown} does not answer (${why}): waiting for it`);
  }

  #onBack(): void {
    if (this.#awaySince === undefined) return;
    const seconds = ((Date.now() - this.#awaySince) / 1e3).toFixed(1);
    this.#awaySince = undefined;
    this.#toldAt = 0;
    this.#told.tell(`the queue at ${this.address.shown} answers again, after ${seconds} s`);
  }

  #refused(why: string): OperatingError {
    return new OperatingError(
      'QUEUE_FAILED',
      `the queue at ${this.address.shown} refuses this program: ${why}; write user and password as redis://USER:PASSWORD@HOST`,
    );
  }
}
