// Keeps requests going on all devices: admits them between passes, runs passes while there are any, and tells who asked.

import { setImmediate } from 'node:timers/promises';
import { assert, type Executor, isAtRest, OperatingError, present } from '../../offload/index.js';
import type { DeviceBatch } from './device-batch.js';
import { Gathering } from './gathering.js';
import { Untold } from './outcome.js';
import type { PrefixCounts } from './page-cache.js';
import { type PassGroup, passesLeftOf, passGroups } from './pass-group.js';
import { type JobState, type PassProgress, passProgress, sum } from './pass-progress.js';
import type { EngineRequest, QueuedRequest, RequestQueue } from './request.js';
import { requestProblem } from './request-problem.js';
import { isScoring, Sequence, turnOf, type Wanted } from './sequence.js';
import { Submission } from './submission.js';
import { WaitingLine } from './waiting-line.js';

export type { PassProgress } from './pass-progress.js';

export interface SchedulerOptions {
  /** Sequences that each device works on at once; default as many as the plan has room for. */
  readonly batchSize?: number;
  /** For requests that do not say it. */
  readonly maxNewTokens?: number;
  readonly stopTokens?: ReadonlySet<number>;
  /** These and no others: so it is known when the last pass comes. */
  readonly queue?: RequestQueue;
  /** Default true: what sequences begin with alike is computed once. False to measure as if all were different. */
  readonly sharesPages?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  /** So long the first request waits for others to begin with, unless all places can be taken before; default 0. */
  readonly maxWaitMs?: number | undefined;
  /** After each pass. */
  readonly onPass?: ((pass: PassProgress) => void) | undefined;
}

const NO_STOPS: ReadonlySet<number> = new Set();

/**
 * Lives as long as its executor may: it begins to fetch layers with the first request, keeps the buffers full while it has
 * nothing to do, and ends with `close`. A request that was submitted begins in the next pass that has room for it, in the
 * order in which requests came.
 */
export class Scheduler {
  readonly #executor: Executor;
  readonly #options: SchedulerOptions;
  /** One, or in a pipeline one for each batch: their passes begin in turns. */
  readonly #groups: readonly PassGroup[];
  readonly #batches: readonly DeviceBatch[];
  #turn = 0;
  readonly #waiting = new WaitingLine();
  readonly #gathering: Gathering;
  /** Requests that the queue has given. */
  #taken = 0;
  #arrivals = 0;
  #finished = 0;
  #running: Promise<void> | undefined;
  #inSession = false;
  readonly #untold: Untold;
  /**
   * Whoever asked is told of a pass while devices compute the next one, which they would else wait for. Where layers stream
   * they do not wait, and a pass that nobody wants any more is long.
   */
  readonly #tellsLate: boolean;
  /** Devices hold sequences that were cancelled since they were last looked through. */
  #someCancelled = false;
  #closing: Promise<void> | undefined;
  /** Nothing can be computed any more, and why. */
  #failure: { readonly error: unknown } | undefined;

  constructor(executor: Executor, options: SchedulerOptions = {}) {
    const { batchSize = executor.plan.sequences, sharesPages = true } = options;
    this.#executor = executor;
    this.#options = options;
    this.#gathering = new Gathering(options.maxWaitMs ?? 0);
    this.#untold = new Untold({
      checkFiles: () => executor.checkFiles(),
      tellEnded: (sequence) => this.#tell(sequence),
    });
    this.#tellsLate = isAtRest(executor.plan);
    this.#groups = passGroups(executor, { batchSize, sharesPages });
    this.#batches = this.#groups.flatMap(({ batches }) => batches);
  }

  /** Pages of keys and values that no sequence holds, by device. */
  get freePages(): readonly number[] {
    return this.#batches.map(({ freePages }) => freePages);
  }

  /** The same in blocks that see only the latest tokens: by device and horizon of the plan. */
  get freeLatePages(): readonly (readonly number[])[] {
    return this.#batches.map(({ freeLatePages }) => freeLatePages);
  }

  /** Tokens that sequences came with, and how many of them were in the cache already. */
  get prefixCounts(): PrefixCounts {
    const sumOf = (key: keyof PrefixCounts) => sum(this.#batches.map((batch) => batch.prefixCounts[key]));
    return { promptTokens: sumOf('promptTokens'), sharedTokens: sumOf('sharedTokens') };
  }

  /** Requests that have not ended. */
  get openRequests(): number {
    return this.#unbegun + this.#alive.length;
  }

  /** A request that cannot be computed ends with its error; so does every one after `close` or a failure. */
  submit(request: EngineRequest): Submission {
    assert(this.#options.queue === undefined, 'a scheduler of a queue takes no other requests');
    const submission = new Submission((sequence) => this.#cancel(sequence));
    const sequence = this.#sequenceOf({ request, listener: submission });
    submission.follow(sequence);
    if (this.#failure) sequence.failed(this.#failure.error);
    else if (!this.#endAtOnce(sequence)) {
      this.#waiting.add(sequence);
      this.#gathering.look();
      this.#wake();
    }
    return submission;
  }

  /** Resolves when no request is open. Rejects with what made all of them fail. */
  async whenIdle(): Promise<void> {
    if (this.#options.queue) this.#wake();
    while (this.#running) await this.#running;
    if (this.#failure) throw this.#failure.error;
  }

  /** Ends the session with the executor; requests that are open are cancelled. More than once is no fault. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const closed = new OperatingError('CLOSED', 'the engine is closed: open another one');
    this.#failure ??= { error: closed };
    const open = [...this.#waiting, ...this.#alive];
    for (const sequence of open) sequence.finishReason ??= 'cancelled';
    this.#gathering.look();
    try {
      await this.#running;
      await this.#endSession();
    } finally {
      for (const sequence of open) if (!sequence.isTold) this.#tell(sequence);
    }
  }

  get #alive(): Sequence[] {
    return this.#batches.flatMap(({ alive }) => alive);
  }

  /** Requests that no device works on. */
  get #unbegun(): number {
    return (this.#options.queue?.length ?? 0) - this.#taken + this.#waiting.length;
  }

  #sequenceOf({ request, listener }: QueuedRequest): Sequence {
    return new Sequence(request, this.#wantedBy(request), this.#arrivals++, listener);
  }

  #wantedBy(request: EngineRequest): Wanted {
    if (isScoring(request)) return { maxNewTokens: 0, stopTokens: NO_STOPS, stopsAfter: undefined };
    const { maxNewTokens = Number.NaN, stopTokens = NO_STOPS } = this.#options;
    return {
      maxNewTokens: request.maxNewTokens ?? maxNewTokens,
      stopTokens: request.stopTokens ?? stopTokens,
      stopsAfter: request.stopsAfter,
    };
  }

  /** Ends a request that cannot be computed; false for any other. */
  #endAtOnce(sequence: Sequence): boolean {
    const problem = requestProblem(sequence, this.#executor);
    if (!problem) return false;
    sequence.fail(problem);
    this.#tell(sequence);
    return true;
  }

  #cancel(sequence: Sequence): void {
    if (sequence.finishReason !== undefined) return;
    sequence.finishReason = 'cancelled';
    if (this.#waiting.remove(sequence)) {
      this.#tell(sequence);
      this.#gathering.look();
    } else this.#someCancelled = true;
  }

  #tell(sequence: Sequence): void {
    this.#finished++;
    sequence.finished();
  }

  /** Passes begin when whoever submits has submitted all that it has at this moment. */
  #wake(): void {
    this.#running ??= Promise.resolve()
      .then(() => this.#run())
      .finally(() => {
        this.#running = undefined;
        if (this.#waiting.length > 0 && !this.#failure) this.#wake();
      });
  }

  async #run(): Promise<void> {
    try {
      await this.#gathering.wait(() => this.#isComplete);
      await this.#admit();
      while (this.#hasWork && !this.#failure && !this.#options.signal?.aborted) {
        if (this.#someCancelled) await this.#replace();
        else await this.#pass();
      }
      this.#untold.tell();
      if (this.#alive.length > 0 && !this.#failure) this.#options.signal?.throwIfAborted();
      for (const sequence of this.#sweep()) this.#tell(sequence);
    } catch (error) {
      this.#failure ??= { error };
    }
    if (this.#failure) await this.#failAll(this.#failure.error);
    else if (this.#options.queue) await this.#endSession();
  }

  /** Somebody waits for a token, or what was begun for somebody has not ended. */
  get #hasWork(): boolean {
    return this.#alive.length > 0 || this.#groups.some(({ isRunning }) => isRunning);
  }

  /** Nobody would begin sooner if others were waited for. */
  get #isComplete(): boolean {
    const { length } = this.#waiting;
    const isOver = this.#options.queue !== undefined || this.#failure !== undefined;
    return isOver || length === 0 || length >= this.#capacity;
  }

  get #capacity(): number {
    return sum(this.#batches.map(({ capacity }) => capacity));
  }

  async #failAll(error: unknown): Promise<void> {
    try {
      this.#untold.tell();
    } catch {
      // It is told to those whom it concerns, and what has failed before counts.
    }
    for (const group of this.#groups) group.abandon();
    const open = [...this.#alive, ...this.#waiting];
    for (const sequence of this.#waiting) this.#waiting.remove(sequence);
    // What a session that has failed says at its end is of no use beside what made it fail.
    await this.#endSession().catch(() => undefined);
    for (const sequence of open) {
      const hasEnded = sequence.finishReason !== undefined;
      sequence.finishReason ??= 'cancelled';
      if (hasEnded) this.#tell(sequence);
      else sequence.failed(error);
    }
    this.#sweep();
  }

  async #endSession(): Promise<void> {
    if (!this.#inSession) return;
    this.#inSession = false;
    await this.#executor.end();
  }

  async #beginPass(): Promise<void> {
    if (this.#inSession && this.#executor.passesLeft > 0) return;
    // Looking for a fault, or making room, takes passes that nobody could expect.
    for (const group of this.#groups) if (group.isRunning) await this.#finish(group);
    await this.#endSession();
    this.#executor.begin(this.#passLimit() ?? Number.POSITIVE_INFINITY);
    this.#inSession = true;
  }

  /** Passes to come at most; undefined while that depends on how soon texts end, or on requests to come. */
  #passLimit(): number | undefined {
    if (!this.#options.queue || this.#unbegun > 0) return undefined;
    return passesLeftOf(this.#groups);
  }

  /** A pass of all batches; in a pipeline of the one whose turn it is, while those of the others are on their way. */
  async #pass(): Promise<void> {
    const group = present(this.#groups[this.#turn++ % this.#groups.length], 'a group of batches');
    const isAlone = this.#groups.length === 1;
    if (group.isRunning && !isAlone) await this.#finish(group);
    if (!group.isRunning) {
      if (group.hasWork && !this.#failure) await this.#start(group);
      else this.#untold.tell();
    }
    if (!isAlone || !group.isRunning) return;
    if (this.#mayRunAhead) group.startAhead(this.#unbegun);
    if (this.#untold.isSome) await this.#tellBeside();
    await this.#finish(group);
  }

  /** The next pass may be queued while one is on its way: nobody waits to join it, or has left. */
  get #mayRunAhead(): boolean {
    const { runsAhead, passesLeft } = this.#executor;
    if (!runsAhead || passesLeft === 0 || this.#someCancelled || this.#options.signal?.aborted) return false;
    return this.#unbegun === 0 || this.#batches.every(({ alive, capacity }) => alive.length === capacity);
  }

  async #start(group: PassGroup): Promise<void> {
    this.#waiting.takeBack(group.makeRoom());
    await this.#beginPass();
    group.start(this.#unbegun);
    if (this.#untold.isSome) await this.#tellBeside();
  }

  async #finish(group: PassGroup): Promise<void> {
    const { works, waitingPrompts, phase, grown } = await group.finish();
    const { onPass } = this.#options;
    const ended = this.#sweep();
    const tell = onPass && (() => onPass(passProgress(works, phase, this.#jobState(waitingPrompts))));
    this.#untold.tell();
    this.#untold.keep({ grown, ended, tell });
    if (!this.#tellsLate) this.#untold.tell();
    const finishedBefore = this.#finished;
    await this.#admit();
    // Where every sequence has one token more, and none has ended, the passes to come are one fewer.
    const single = works.every(({ work }) => work.every(({ slice }) => slice.tokens.length === 1));
    if (single && ended.length === 0 && this.#finished === finishedBefore) return;
    const limit = this.#passLimit();
    if (limit !== undefined) this.#executor.limitPasses(limit);
  }

  /** Tells of the pass before when the next one has queued what it can. */
  async #tellBeside(): Promise<void> {
    await setImmediate();
    this.#untold.tell();
  }

  /** Others begin in the places of those that were cancelled between passes. */
  async #replace(): Promise<void> {
    this.#untold.tell();
    for (const sequence of this.#sweep()) this.#tell(sequence);
    await this.#admit();
  }

  /** Those that have ended leave, unless a pass has still to tell of them. */
  #sweep(): Sequence[] {
    this.#someCancelled = false;
    const othersCome = this.#options.queue === undefined || this.#unbegun > 0;
    // The pages of those that leave a single group are written by no pass before the one that others take them in.
    const still = this.#groups.filter(({ isRunning }) => !isRunning || this.#groups.length === 1);
    return still.flatMap(({ batches }) => batches.flatMap((batch) => batch.sweep(othersCome)));
  }

  /** The emptiest device takes the next request, until none has room for it or none waits. */
  async #admit(): Promise<void> {
    while (this.#unbegun > 0) {
      // Asking the queue for a request that nobody has room for would only hold its memory.
      const open = this.#batches.filter(({ alive, capacity }) => alive.length < capacity);
      const { first } = this.#waiting;
      if (open.length === 0 && !(first && this.#makeWay(first))) return;
      if (open.length === 0) continue;
      const sequence = first ?? (await this.#nextOfQueue());
      if (!sequence) continue;
      open.sort((a, b) => a.alive.length - b.alive.length);
      if (open.some((batch) => batch.admit(sequence))) this.#waiting.begin(sequence);
      else if (!this.#makeWay(sequence)) return;
    }
  }

  /** One of a batch leaves for an interactive request, and comes back later; false where none has to. */
  #makeWay(newcomer: Sequence): boolean {
    if (turnOf(newcomer).kind === 'batch') return false;
    const fullest = this.#batches.toSorted((a, b) => b.alive.length - a.alive.length);
    let yielding: Sequence | undefined;
    for (const batch of fullest) yielding ??= batch.yieldOne();
    if (!yielding) return false;
    this.#waiting.takeBack([yielding]);
    return true;
  }

  #jobState(waitingPrompts: number): JobState {
    const totalPrompts = this.#options.queue?.length ?? this.#arrivals;
    return {
      alive: this.#alive,
      capacity: this.#capacity,
      waitingPrompts,
      finishedPrompts: this.#finished,
      totalPrompts,
    };
  }

  /** Undefined for one that has ended with its error. */
  async #nextOfQueue(): Promise<Sequence | undefined> {
    const queued = await present(this.#options.queue, 'queue').next();
    this.#taken++;
    const sequence = this.#sequenceOf(queued);
    if (this.#endAtOnce(sequence)) return undefined;
    this.#waiting.add(sequence);
    return sequence;
  }
}
