// The worker's side of the thread that renews its leases.

import { Worker } from 'node:worker_threads';

export interface RenewalSetup {
  readonly url: string;
  /** What the server's keys of the queue begin with. */
  readonly keys: string;
  /** Says whose a lease is. */
  readonly token: string;
  /** A lease lasts so long without being renewed. */
  readonly leaseMs: number;
  /** When the worker last moved, in milliseconds since 1970. */
  readonly beat: SharedArrayBuffer;
  /** One that has not moved for so long has ended, whatever it says. */
  readonly longestMs: number;
}

export type ToRenewal = { readonly hold: string } | { readonly drop: string } | { readonly end: true };
export type FromRenewal = { readonly lost: readonly string[] } | { readonly ready: true };

const BEAT_MS = 1000;
/** Longer than any pass: a worker that reads terabytes from a drive still moves between them. */
const LONGEST_MS = 15 * 60_000;

export class Renewal {
  /** It renews from now on: a lease that is taken before might run out first. */
  readonly ready: Promise<void>;
  readonly #thread: Worker;
  readonly #beat: NodeJS.Timeout;

  /** @param onLost told of parts that somebody else has taken */
  constructor(
    setup: Pick<RenewalSetup, 'url' | 'keys' | 'token' | 'leaseMs'>,
    onLost: (ids: readonly string[]) => void,
  ) {
    const beat = new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT);
    const beats = new BigInt64Array(beat);
    const move = () => Atomics.store(beats, 0, BigInt(Date.now()));
    move();
    this.#beat = setInterval(move, BEAT_MS);
    this.#beat.unref();
    const workerData: RenewalSetup = { ...setup, beat, longestMs: LONGEST_MS };
    this.#thread = new Worker(new URL('./renewal-thread.js', import.meta.url), { workerData });
    this.ready = new Promise((resolve) => {
      this.#thread.on('message', (message: FromRenewal) => {
        if ('lost' in message) onLost(message.lost);
        else resolve();
      });
    });
    this.#thread.unref();
  }

  /** Rejects with what ended the thread, which nothing should. */
  get failed(): Promise<never> {
    return new Promise((_, reject) => {
      this.#thread.once('error', reject);
    });
  }

  hold(id: string): void {
    this.#tell({ hold: id });
  }

  drop(id: string): void {
    this.#tell({ drop: id });
  }

  close(): void {
    clearInterval(this.#beat);
    this.#tell({ end: true });
  }

  #tell(message: ToRenewal): void {
    this.#thread.postMessage(message);
  }
}
