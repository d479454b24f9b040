// An engine: a model, its plan, and what computes it. Opening reads no layer.

import {
  assert,
  type Backend,
  Executor,
  type FileState,
  type LoadAhead,
  type ModelSpec,
  type Plan,
  pathsOf,
  Trace,
} from '../../offload/index.js';
import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { checkMachineHolds } from './budget.js';
import { openBackend, transferFor } from './devices.js';
import type { EngineOptions } from './engine-options.js';
import type { OpenedModel } from './open-model.js';
import type { PrefixCounts } from './page-cache.js';
import { planFor } from './plan-for.js';
import type { EngineRequest } from './request.js';
import { Scheduler, type SchedulerOptions } from './scheduler.js';
import type { Submission } from './submission.js';

export type ServingOptions = Pick<SchedulerOptions, 'maxWaitMs' | 'onPass'>;

export class Engine {
  readonly model: ModelSpec;
  readonly plan: Plan;
  readonly backend: Backend;
  readonly executor: Executor;
  readonly trace: Trace;
  #scheduler: Scheduler | undefined;
  #schedulerOptions: ServingOptions = {};

  private constructor(executor: Executor, backend: Backend, trace: Trace) {
    this.model = executor.model;
    this.plan = executor.plan;
    this.backend = backend;
    this.executor = executor;
    this.trace = trace;
  }

  /**
   * Plans, allocates and opens the files. Rejects with an OperatingError and leaves nothing behind.
   * @param ahead of this model and the same files; where it reads all layers, these are to rest in DRAM. Closed with the engine once
   *   the plan is made
   */
  static async open(
    { checkpoint, model }: OpenedModel,
    options: EngineOptions,
    ahead?: LoadAhead,
  ): Promise<Engine> {
    const transfer = await transferFor(options, model);
    const plan = planFor(model, { ...options, plan: { ...options.plan, transfer } });
    checkMachineHolds(plan, options.device === 'cuda' ? 0 : (options.cpu?.virtualDevices ?? 0));
    const trace = new Trace(options.keepSpans ?? false);
    const backend = openBackend(options, plan.transfer.by === 'nccl', ahead?.host);
    try {
      const paths = options.files ?? checkpoint.files;
      const loaded = ahead?.handOver(backend);
      const executor = await Executor.create({
        model,
        plan,
        backend,
        paths,
        trace,
        loaded,
        tell: options.tell,
      });
      backend.checkFiles(expectedFiles(checkpoint, options));
      return new Engine(executor, backend, trace);
    } catch (error) {
      await backend.close();
      throw error;
    }
  }

  /** How requests are gathered, and who is told of passes; to be said before the first is submitted. */
  serveWith(options: ServingOptions): void {
    assert(!this.#scheduler, 'requests have been submitted already');
    this.#schedulerOptions = options;
  }

  /** What all requests so far came with. */
  get prefixCounts(): PrefixCounts {
    return this.#scheduler?.prefixCounts ?? { promptTokens: 0, sharedTokens: 0 };
  }

  /**
   * Has a request computed beside all others; it begins in the next pass that has room for it. From then on the executor is
   * the scheduler's alone, until the engine is closed.
   */
  submit(request: EngineRequest): Submission {
    this.#scheduler ??= new Scheduler(this.executor, this.#schedulerOptions);
    return this.#scheduler.submit(request);
  }

  /** Resolves when no submitted request is open. Rejects with what made all of them fail. */
  async whenIdle(): Promise<void> {
    await this.#scheduler?.whenIdle();
  }

  /** Stops all work and cancels what was submitted; safe at any time and more than once. */
  async close(): Promise<void> {
    // Requests that come from now on are told that it is closed.
    this.#scheduler ??= new Scheduler(this.executor);
    const closed = this.#scheduler.close();
    await this.backend.close();
    await closed;
  }
}

/** By path, what the files must be that were opened. */
function expectedFiles(checkpoint: Checkpoint, options: EngineOptions): ReadonlyMap<string, FileState> {
  const { files, fileStates = [] } =
    options.files && options.files !== checkpoint.files ? options : checkpoint;
  const states = new Map<string, FileState>();
  for (const [index, path] of pathsOf(files ?? []).entries()) {
    const state = fileStates[index];
    if (state) states.set(path, state);
  }
  return states;
}
