// Batches that pass together: those of all devices, or one of those that follow each other through a pipeline.

import { type Executor, type PassResult, present } from '../../offload/index.js';
import { type BatchOptions, DeviceBatch, type DeviceWork } from './device-batch.js';
import { expectsWhole } from './expectation.js';
import { type PassProgress, phaseOf } from './pass-progress.js';
import type { Sequence } from './sequence.js';

interface RunningPass {
  readonly works: readonly DeviceWork[];
  readonly results: Promise<PassResult[]>;
  /** As it began. */
  readonly waitingPrompts: number;
}

/** What a pass has come to. */
export interface PassOutcome extends Omit<RunningPass, 'results'> {
  /** By what its sequences had before it. */
  readonly phase: PassProgress['phase'];
  /** They have one token more. */
  readonly grown: readonly Sequence[];
}

export class PassGroup {
  readonly batches: readonly DeviceBatch[];
  readonly #executor: Executor;
  /** Which one of a pipeline's. */
  readonly #batch: number | undefined;
  #running: RunningPass | undefined;

  constructor(executor: Executor, batches: readonly DeviceBatch[], batch?: number) {
    this.#executor = executor;
    this.batches = batches;
    this.#batch = batch;
  }

  get isRunning(): boolean {
    return this.#running !== undefined;
  }

  get hasWork(): boolean {
    return this.batches.some(({ alive }) => alive.length > 0);
  }

  /** Those that leave for others, and come back. */
  makeRoom(): Sequence[] {
    return this.batches.flatMap((batch) => batch.makeRoom());
  }

  /** Begins a pass; others may begin before it has ended. */
  start(waitingPrompts: number): void {
    const works = this.batches.map((batch) => batch.nextWork());
    const perDevice = works.map(({ microBatches }) => microBatches);
    const loads = this.batches.map(({ alive }, index) => ({ alive, ...present(works[index], 'work') }));
    const isWhole = expectsWhole(this.#executor.plan.slots, loads, waitingPrompts > 0);
    const batch = this.#batch === undefined ? {} : { batch: this.#batch };
    const results = this.#executor.run({ ...batch, perDevice, expectsWhole: isWhole });
    // It may fail before anybody waits for it.
    results.catch(() => undefined);
    this.#running = { works, results, waitingPrompts };
  }

  /** Waits for the pass, and enters what it yielded. */
  async finish(): Promise<PassOutcome> {
    const { works, results, waitingPrompts } = present(this.#running, 'a pass');
    const yielded = await results;
    this.#running = undefined;
    const phase = phaseOf(works);
    const grown = this.batches.flatMap((batch, index) => [
      ...batch.take(present(works[index], 'work'), present(yielded[index], 'result')),
    ]);
    return { works, waitingPrompts, phase, grown };
  }

  /** What it was to yield is nobody's. */
  abandon(): void {
    this.#running = undefined;
  }

  /** Passes that its sequences need at most; undefined while that cannot be said. */
  passesLeft(): number | undefined {
    let most = 0;
    for (const batch of this.batches) {
      const passes = batch.passesLeft();
      if (passes === undefined) return undefined;
      most = Math.max(most, passes);
    }
    return most;
  }
}

/** One, or in a pipeline one for each batch. */
export function passGroups(executor: Executor, options: BatchOptions): PassGroup[] {
  const batches = Array.from({ length: executor.batchCount }, () => new DeviceBatch(executor, options));
  if (!executor.plan.pipeline) return [new PassGroup(executor, batches)];
  return batches.map((batch, index) => new PassGroup(executor, [batch], index));
}

/** Passes of all of them together, at most; undefined while that cannot be said. */
export function passesLeftOf(groups: readonly PassGroup[]): number | undefined {
  let all = 0;
  for (const group of groups) {
    const passes = group.passesLeft();
    if (passes === undefined) return undefined;
    all += passes;
  }
  return all;
}
