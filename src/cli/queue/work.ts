// A worker at work: it keeps as many parts in hand as make its batch full and last for minutes, and completes each with its results.

import { setTimeout } from 'node:timers/promises';
import { present } from '../../../offload/index.js';
import type { ChunkCounts } from '../../queue/bull.js';
import { countsOf } from '../../queue/bull.js';
import type { ChunkResult } from '../../queue/chunk.js';
import type { QueueConnection } from '../../queue/connection.js';
import type { HeldChunk, Leases } from '../../queue/leases.js';
import { asked, type JobRecord, readJob } from '../../queue/record.js';
import { forgetWorker, sayOfWorker } from '../../queue/workers.js';
import type { PartAtWork, PartMaker } from './part-maker.js';

/** A lease is to last that long: fewer questions, and work for as long as the server is away. */
const LEASE_SECONDS = 120;
/** What prompts that wait may take of the memory. */
const MOST_HELD_CHARACTERS = 256 << 20;
/** Longer the more workers there are, so that the server hears a hundred of them a second at most. */
const SAY_EVERY_MS = 2000;
const PER_WORKER_MS = 10;
const SAY_LATEST_MS = 20_000;
const LOOK_AGAIN_MS = 500;
const LOOK_MS = 100;

export interface WorkOptions<P> {
  readonly connection: QueueConnection;
  readonly record: JobRecord;
  readonly leases: Leases<P>;
  /** Prompts of a part that is full. */
  readonly partPrompts: number;
  /** Passes so far. */
  readonly passes: () => number;
  /** Texts that all devices make at once. */
  readonly capacity: number;
  readonly roomBytes: number;
  readonly name: string;
  readonly log: (sentence: string) => void;
  readonly signal: AbortSignal;
}

/** `done`: all texts are made. `replaced`: the name of the job is another one's. */
export type WorkEnd = 'done' | 'replaced';

/** How many texts to have in hand beyond those that are being made. */
export function textsAhead(textsPerSecond: number, { waitingTexts, workers, partTexts }: WhatWaits): number {
  // At the end of a job nobody is to hold what others could make: not even a part, where there is none for each.
  const fairShare = Math.ceil(waitingTexts / (2 * Math.max(1, workers)));
  if (workers > 1 && fairShare < partTexts) return 0;
  return Math.max(1, Math.min(Math.ceil(textsPerSecond * LEASE_SECONDS), fairShare));
}

export interface WhatWaits {
  readonly waitingTexts: number;
  readonly workers: number;
  /** Texts of a full part. */
  readonly partTexts: number;
}

export class Work<P> {
  readonly #options: WorkOptions<P>;
  readonly #maker: PartMaker<P>;
  readonly #chunks = new Map<HeldChunk<unknown>, PartAtWork>();
  readonly #startedAt = Date.now();
  #held = 0;
  #counts: ChunkCounts = { waiting: 0, leased: 0, made: 0 };
  #lookedMs = Number.NEGATIVE_INFINITY;
  #workers = 1;
  #resultBytes = { chunks: 0, bytes: 0 };
  #isFullTold = false;
  #wake: (() => void) | undefined;
  #failure: { readonly error: unknown } | undefined;
  /** Texts whose results were taken by the queue; those that others made meanwhile do not count. */
  texts = 0;
  newTokens = 0;
  takenOver = 0;

  constructor(maker: PartMaker<P>, options: WorkOptions<P>) {
    this.#maker = maker;
    this.#options = options;
  }

  /** Ends with the job. Rejects with what ends the worker. */
  async run(): Promise<WorkEnd> {
    const { leases, connection, record, name } = this.#options;
    leases.failed.catch((error: unknown) => this.#fail(error));
    let saidAt = 0;
    try {
      for (;;) {
        if (this.#failure) throw this.#failure.error;
        const pauseMs = Math.min(SAY_LATEST_MS, SAY_EVERY_MS + this.#workers * PER_WORKER_MS);
        if (Date.now() - saidAt >= pauseMs) {
          await this.#say();
          saidAt = Date.now();
        }
        const took = await this.#takeSome();
        if (took) continue;
        const end = this.#chunks.size === 0 ? await this.#whetherDone() : undefined;
        if (end) return end;
        await this.#something();
      }
    } finally {
      await forgetWorkerSoon(connection, record.id, name);
    }
  }

  describe(): string {
    return `${this.texts} texts in ${this.#options.passes()} passes, ${this.#openTexts} in hand, ${this.#counts.waiting} parts wait`;
  }

  /** Somebody else has taken the part. */
  lost(chunk: HeldChunk<unknown>): void {
    this.takenOver++;
    this.#options.log(`part ${chunk.id} of the job was taken over: its texts are left to another worker`);
    this.#chunks.get(chunk)?.cancel();
  }

  get #openTexts(): number {
    return [...this.#chunks.values()].reduce((sum, { open }) => sum + open, 0);
  }

  get #textsPerSecond(): number {
    return this.texts / Math.max(1, (Date.now() - this.#startedAt) / 1e3);
  }

  async #say(): Promise<void> {
    const { connection, record, name, passes } = this.#options;
    const said = {
      name,
      since: this.#startedAt,
      texts: this.texts,
      passes: passes(),
      textsPerSecond: this.#textsPerSecond,
      open: this.#openTexts,
    };
    // While the server is away, what is in hand is computed all the same.
    this.#workers = await connection.ask(() => sayOfWorker(connection, record.id, said));
    await this.#look(0);
  }

  /** How much waits, asked for where that was longer ago. */
  async #look(mostMs = LOOK_MS): Promise<void> {
    if (performance.now() - this.#lookedMs < mostMs) return;
    const { connection, leases } = this.#options;
    this.#counts = await connection.ask(() => countsOf(leases.queue));
    this.#lookedMs = performance.now();
  }

  /** Takes parts until there are enough in hand, and begins all of them together. */
  async #takeSome(): Promise<boolean> {
    const { leases, capacity, partPrompts } = this.#options;
    const { samples } = this.#maker;
    const partTexts = partPrompts * samples;
    const waits = () => ({
      waitingTexts: this.#counts.waiting * partTexts,
      workers: this.#workers,
      partTexts,
    });
    // What was true some seconds ago says nothing of the last parts.
    if (waits().waitingTexts < 4 * capacity * this.#workers && this.#openTexts < 2 * capacity)
      await this.#look();
    const ahead = textsAhead(this.#textsPerSecond, waits());
    const taken: HeldChunk<P>[] = [];
    let open = this.#openTexts;
    while (open < capacity + ahead && this.#held < MOST_HELD_CHARACTERS && !this.#isFull()) {
      const chunk = await leases.take();
      if (!chunk) break;
      taken.push(chunk);
      open += chunk.prompts.length * samples;
      this.#held += charactersOf(chunk);
    }
    const begun = taken.length > 0 ? await this.#maker.begin(taken, () => this.#notify()) : [];
    for (const [index, chunk] of taken.entries()) {
      const part = present(begun[index], 'part');
      this.#chunks.set(chunk, part);
      void this.#finish(chunk, part.result);
    }
    return taken.length > 0;
  }

  async #finish(chunk: HeldChunk<P>, making: Promise<ChunkResult>): Promise<void> {
    try {
      const result = await making;
      if (await this.#options.leases.complete(chunk, result)) this.#count(result);
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#held -= charactersOf(chunk);
      this.#chunks.delete(chunk);
      this.#notify();
    }
  }

  #count(result: ChunkResult): void {
    this.texts += result.lines.length;
    for (const line of result.lines) this.newTokens += this.#maker.newTokensOf(line);
    const { chunks, bytes } = this.#resultBytes;
    this.#resultBytes = { chunks: chunks + 1, bytes: bytes + JSON.stringify(result).length };
  }

  /** Results that nobody collects would fill the server. */
  #isFull(): boolean {
    const { chunks, bytes } = this.#resultBytes;
    const isFull = chunks > 0 && this.#counts.made * (bytes / chunks) > this.#options.roomBytes;
    if (isFull && !this.#isFullTold) {
      this.#options.log(
        'results wait to be collected (--queue_memory): run collect, and this worker goes on',
      );
    }
    this.#isFullTold = isFull;
    return isFull;
  }

  async #whetherDone(): Promise<WorkEnd | undefined> {
    const { connection, record } = this.#options;
    const job = await readJob(asked(connection));
    // A server that has lost the job of others is given it again by these.
    if (job === undefined && record.kind === 'requests') return undefined;
    if (job?.record.id !== record.id) return 'replaced';
    if (job.state === 'collected') return 'done';
    await this.#look(0);
    const { waiting, leased } = this.#counts;
    // What others hold may come back, if they are killed.
    return job.state === 'submitted' && waiting + leased === 0 ? 'done' : undefined;
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    this.#notify();
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** Until a text is made, or for a moment. */
  async #something(): Promise<void> {
    this.#options.signal.throwIfAborted();
    const woken = new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    const timer = new AbortController();
    const options = { signal: timer.signal };
    await Promise.race([woken, setTimeout(LOOK_AGAIN_MS, undefined, options).catch(() => undefined)]);
    timer.abort();
  }
}

function charactersOf({ prompts }: HeldChunk<unknown>): number {
  return JSON.stringify(prompts).length;
}

/** Where the server is away, it forgets by itself. */
async function forgetWorkerSoon(connection: QueueConnection, id: string, name: string): Promise<void> {
  const wait = new AbortController();
  const forgotten = forgetWorker(connection, id, name).catch(() => undefined);
  await Promise.race([forgotten, setTimeout(200, undefined, { signal: wait.signal }).catch(() => undefined)]);
  wait.abort();
}
