// Plays a scenario on the simulated backend and compares every result with the reference.

import { present } from '../../offload/errors.js';
import { choicesOf, choosesExperts } from '../../offload/plan/slots.js';
import type { Backend } from '../../offload/port/backend.js';
import { Executor } from '../../offload/run/executor.js';
import { tokenCount } from '../../offload/run/pass.js';
import type { PassResult } from '../../offload/run/results.js';
import { Trace } from '../../offload/trace.js';
import { Random } from '../simulator/random.js';
import { SimulatedBackend } from '../simulator/simulated.js';
import type { ReferenceOutput } from './reference.js';
import { drawScenario, type ExpectedPass, type Scenario, type ScenarioOptions } from './scenario.js';
import { type PlacedFiles, striped } from './striped.js';

/** A pass yielded something else than the reference. */
export class WrongResultError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'WrongResultError';
  }
}

/** A buffer did not come back to its pool, or something is still read. */
export class LeakError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'LeakError';
  }
}

export interface WorldOptions extends ScenarioOptions {
  readonly failsRead?: (request: number) => boolean;
  readonly breaks?: (device: number, kernel: number) => boolean;
  /** Whether files lie on several drives in turns; default: drawn. */
  readonly striped?: boolean;
  /** Puts something between the executor and the backend. */
  readonly wrap?: (backend: SimulatedBackend) => Backend;
  /** Changes the scenario's plan before anything is allocated. */
  readonly alter?: (scenario: Scenario) => Scenario;
}

export class World {
  readonly scenario: Scenario;
  readonly backend: SimulatedBackend;
  readonly trace = new Trace(true);
  readonly #seen: Backend;
  readonly #placed: PlacedFiles;
  #executor: Executor | undefined;
  #closed = false;

  constructor(seed: number, options: WorldOptions = {}) {
    const drawn = drawScenario(seed, {
      ...options,
      hook: (weight, layerName, key) => {
        // The forward also runs when the plan is made and in the reference, before there is a backend.
        if (!this.#executor) return;
        const { reference } = this.scenario;
        this.backend.expectContent(weight, `${key} of ${layerName}`, reference.hash(layerName, key));
      },
    });
    this.scenario = options.alter?.(drawn) ?? drawn;
    const { deviceCount, computesInPlace, toy } = this.scenario;
    // Drawn apart, so that everything else of a seed stays as it was.
    const random = new Random(seed + 141_650_939);
    const isStriped = options.striped ?? random.chance(0.3);
    this.#placed = isStriped ? striped(toy, random) : { ...toy, driveOf: () => 0 };
    this.backend = new SimulatedBackend({
      seed,
      deviceCount,
      computesInPlace,
      files: this.#placed.files,
      driveOf: this.#placed.driveOf,
      ...(options.failsRead ? { failsRead: options.failsRead } : {}),
      ...(options.breaks ? { breaks: options.breaks } : {}),
    });
    this.#seen = options.wrap?.(this.backend) ?? this.backend;
  }

  get executor(): Executor {
    return present(this.#executor, 'executor');
  }

  get isCreated(): boolean {
    return this.#executor !== undefined;
  }

  async create(): Promise<void> {
    const { toy, plan } = this.scenario;
    const { model } = toy;
    const { paths } = this.#placed;
    const created = Executor.create({
      model,
      plan,
      backend: this.#seen,
      paths,
      trace: this.trace,
    });
    this.#executor = await this.backend.until(created, 'Executor.create');
  }

  /** Runs one of the scenario's passes and compares. */
  async run(index: number): Promise<void> {
    const expected = present(this.scenario.passes[index], `pass ${index}`);
    const results = await this.backend.until(this.executor.run(expected.pass), `pass ${index}`);
    compare(expected, results, this.scenario, index);
  }

  /** Runs all passes in their order: one after the other, or in a pipeline those of all batches at once. */
  async runAll(): Promise<void> {
    const { plan, passes } = this.scenario;
    const together = plan.pipeline?.batches ?? 1;
    const running: Promise<void>[] = [];
    for (const index of passes.keys()) {
      if (running.length === together) await running.shift();
      const run = this.run(index);
      run.catch(() => undefined);
      running.push(run);
    }
    for (const run of running) await run;
  }

  /** Ends the session; every buffer must be back, and every read over unless the backend was closed before. */
  async end(): Promise<void> {
    await this.backend.until(this.executor.end(), 'Executor.end');
    const { leasedBuffers } = this.executor;
    if (leasedBuffers > 0) throw new LeakError(`${leasedBuffers} buffers are still leased`);
    const { inFlight } = this.backend.driveStats;
    if (inFlight > 0 && !this.#closed) throw new LeakError(`${inFlight} reads are still in flight`);
  }

  /** Also in the middle of everything. */
  close(): Promise<void> {
    this.#closed = true;
    return this.backend.close();
  }

  /** One session over all passes. */
  async playAll(): Promise<void> {
    await this.create();
    this.executor.begin(this.scenario.passes.length);
    await this.runAll();
    await this.end();
    await this.#checkCounts();
    await this.close();
  }

  /** Every choice of a pass that brings what it chooses is counted, and none of one that has layers pass by. */
  async #checkCounts(): Promise<void> {
    const { plan, passes } = this.scenario;
    if (!plan.slots) return;
    const counts = await this.backend.until(this.executor.slotCounts(), 'counts of slots');
    const { hits, misses } = present(counts, 'counts of slots');
    const layers = plan.layers.flatMap(({ experts }) => experts ?? []);
    const tokens = passes.reduce((sum, { pass }) => sum + choosingTokens(plan, pass), 0);
    // Where whole layers were expected, those that were fetched already serve any pass.
    const sure = passes.reduce(
      (sum, { pass }, index) => sum + (passes[index - 1]?.pass.expectsWhole ? 0 : choosingTokens(plan, pass)),
      0,
    );
    const most = layers.reduce(
      (sum, { count }) => sum + Math.min(count, choicesOf(this.scenario.toy.model)),
      0,
    );
    const [low, high] = [sure > 0 ? layers.length : 0, tokens * most];
    if (hits + misses < low || hits + misses > high) {
      throw new WrongResultError(
        `${hits} hits and ${misses} misses of ${tokens} tokens in ${layers.length} layers`,
      );
    }
  }
}

/** On all devices together, in a pass that brings what they choose. */
function choosingTokens(plan: Scenario['plan'], { perDevice }: ExpectedPass['pass']): number {
  const sizes = perDevice.map((microBatches) => microBatches.map(tokenCount));
  const choose = sizes.every((counts) => counts.length === 0 || choosesExperts(plan.slots, counts));
  return choose ? sizes.flat().reduce((sum, tokens) => sum + tokens, 0) : 0;
}

function compare({ expected }: ExpectedPass, results: PassResult[], { plan }: Scenario, pass: number): void {
  const wrong = (what: string) => new WrongResultError(`pass ${pass}: ${what}`);
  if (results.length !== expected.length) throw wrong('a result per device is missing');
  expected.forEach((outputs, device) => {
    const result = present(results[device], 'result');
    const { tokens, nll, logits } = result;
    const count = plan.nll ? nll.length : plan.readLogits ? logits.length : tokens.length;
    const perOutput = plan.readLogits && !plan.nll ? plan.logitColumns : 1;
    if (count !== outputs.length * perOutput) throw wrong(`device ${device} has ${count} results`);
    outputs.forEach((output, index) => {
      if (!sameOutput(output, index, result, plan)) {
        throw wrong(`device ${device}, output ${index} differs`);
      }
    });
  });
}

function sameOutput(
  output: ReferenceOutput,
  index: number,
  { tokens, logProbs, nll, logits }: PassResult,
  plan: Scenario['plan'],
): boolean {
  // Pieces of the vocabulary are summed in f32, one after the other.
  if (plan.nll) return Math.abs((nll[index] ?? Number.NaN) - output.nll) < 1e-4;
  if (!plan.readLogits) {
    const logProb = logProbs[index] ?? Number.NaN;
    const asExpected = Number.isNaN(output.logProb)
      ? Number.isNaN(logProb)
      : Math.abs(logProb - output.logProb) < 1e-4;
    return tokens[index] === output.token && asExpected;
  }
  const columns = plan.logitColumns;
  return output.logits.every((logit, column) => logit === logits[index * columns + column]);
}

/** How many seeds each sweep plays; more with ZI_SIM_SEEDS. */
export const SEEDS = Number(process.env.ZI_SIM_SEEDS ?? 300);

/** Plays many seeds; a failure names the seed and its world. */
export async function sweep(
  count: number,
  firstSeed: number,
  play: (seed: number) => Promise<void>,
): Promise<void> {
  for (let seed = firstSeed; seed < firstSeed + count; seed++) {
    try {
      await play(seed);
    } catch (error) {
      throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : String(error)}`, {
        cause: error,
      });
    }
  }
}
