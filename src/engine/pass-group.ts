// Batches that pass together: those of all devices, or one of those that follow each other through a pipeline.

import { type Executor, type Pass, type PassResult, present } from '../../offload/index.js';
import { type BatchOptions, DeviceBatch } from './device-batch.js';
import { expectsWhole } from './expectation.js';
import { type PassProgress, phaseOf } from './pass-progress.js';
import type { DeviceWork } from './pass-work.js';
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
  /** In the order in which they began: one, and perhaps one that has begun before it ended. */
  readonly #running: RunningPass[] = [];

  constructor(executor: Executor, batches: readonly DeviceBatch[], batch?: number) {
    this.#executor = executor;
    this.batches = batches;
    this.#batch = batch;
  }

  get isRunning(): boolean {
    return this.#running.length > 0;
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
    this.#run({ works, waitingPrompts }, { perDevice, expectsWhole: isWhole });
  }

  /** Begins the pass behind the one that is on its way, where nothing that this one yields decides about it. */
  startAhead(waitingPrompts: number): void {
    const [running, another] = this.#running;
    if (!running || another) return;
    const making = this.batches.map((batch, index) => batch.workAhead(present(running.works[index], 'work')));
    const works: DeviceWork[] = [];
    if (!making.every((make) => make !== undefined)) return;
    for (const make of making) works.push(make());
    this.#run({ works, waitingPrompts }, { perDevice: works.map(({ microBatches }) => microBatches) });
  }

  #run(own: Omit<RunningPass, 'results'>, pass: Pass): void {
    const results = this.#executor.run(this.#batch === undefined ? pass : { ...pass, batch: this.#batch });
    // It may fail before anybody waits for it.
    results.catch(() => undefined);
    this.#running.push({ ...own, results });
  }

  /** Waits for the pass that began first, and enters what it yielded. */
  async finish(): Promise<PassOutcome> {
    const { works, results, waitingPrompts } = present(this.#running[0], 'a pass');
    const yielded = await results;
    this.#running.shift();
    const phase = phaseOf(works);
    const grown = this.batches.flatMap((batch, index) => [
      ...batch.take(present(works[index], 'work'), present(yielded[index], 'result')),
    ]);
    return { works, waitingPrompts, phase, grown };
  }

  /** What it was to yield is nobody's. */
  abandon(): void {
    this.#running.length = 0;
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
