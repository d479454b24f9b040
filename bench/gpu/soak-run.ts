// Runs a round of the soak on an engine of its own, and says whether it ended as it must: same tokens, or the right error.

import { statSync } from 'node:fs';
import { constants } from 'node:os';
import {
  type ErrorCode,
  GiB,
  KiB,
  OperatingError,
  type Plan,
  present,
  type Workload,
} from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import type { EngineOptions } from '../../src/engine/engine-options.js';
import { generate } from '../../src/engine/generate.js';
import { type OpenedModel, openModel } from '../../src/engine/open-model.js';
import { planFor } from '../../src/engine/plan-for.js';
import type { GenerationRequest } from '../../src/engine/request.js';
import type { SamplingSettings } from '../../src/engine/sampler.js';
import { score } from '../../src/engine/score.js';
import { failingDevice } from '../../test/helpers/failing-device.js';
import { LateFeeds } from '../../test/helpers/late-feeds.js';
import { randomFrom, randomInt } from '../random.js';
import type { SoakCase, SoakDevices } from './soak-case.js';

const NEW_TOKENS = 6;
const PROMPT_LENGTHS = [1, 3, 40, 17, 33, 2, 9, 26, 16, 5, 31, 12];
/** More than there are places, so that some join while others go on. */
const PROMPTS_OF: Readonly<Record<number, number>> = { 1: 3, 4: 7, 12: 12 };
const SCORED_TOKENS = 61;
const WINDOW_TOKENS = 24;
const DRAWN: SamplingSettings = {
  temperature: 0.8,
  topK: 20,
  topP: 0.95,
  minP: 0,
  repetitionPenalty: 1.1,
  seed: 7,
};
/** Plenty for every model here. */
const PLENTY: Budgets = { dramBudgetBytes: 4 * GiB, deviceBudgetBytes: 8 * GiB };
/** A page of keys and values does not fit. */
const TOO_LITTLE: Budgets = { dramBudgetBytes: KiB, deviceBudgetBytes: KiB };

interface Budgets {
  readonly dramBudgetBytes: number;
  readonly deviceBudgetBytes: number;
}

export interface SoakModel {
  readonly name: string;
  readonly opened: OpenedModel;
  readonly prompts: readonly Int32Array[];
  readonly scored: Int32Array;
  /** Milliseconds that a run took last. */
  usualMs: number;
}

/** A text so far, by prompt; a score as its only entry. */
type Results = ReadonlyMap<number, readonly number[]>;

export class Soak {
  readonly #devices: SoakDevices;
  readonly #models: ReadonlyMap<string, SoakModel>;
  /** What a plain placement yields, by all that results may depend on. */
  readonly #references = new Map<string, Results>();
  readonly #badTable: (one: SoakCase) => Promise<void>;
  /** Results that were compared with those of a plain placement. */
  compared = 0;

  /** @param badTable where a failed device cannot be used again by this process: runs the round in another */
  constructor(
    devices: SoakDevices,
    models: ReadonlyMap<string, SoakModel>,
    badTable?: (one: SoakCase) => Promise<void>,
  ) {
    this.#devices = devices;
    this.#models = models;
    this.#badTable = badTable ?? ((one) => this.runBadTable(one));
  }

  /** How the round ended, in a word or two. Rejects when it ended otherwise than it may. */
  async run(one: SoakCase): Promise<string> {
    switch (one.event) {
      case 'generate':
      case 'score':
        return this.#runPlain(one);
      case 'close':
      case 'abort':
        return this.#runInterrupted(one);
      case 'small budget': {
        const error = await failureOf(Engine.open(this.#modelOf(one).opened, this.#options(one, TOO_LITTLE)));
        insist(isCode(error, 'DOES_NOT_FIT'), `a budget of ${KiB} bytes gave`, error);
        return 'refused';
      }
      case 'read error':
        return this.#runReadError(one);
      case 'bad table':
        await this.#badTable(one);
        return 'device failed';
    }
  }

  /** A row that its table does not have, as a fault of the machine would show: the kernel must say so, and closing must still work. */
  async runBadTable(one: SoakCase): Promise<void> {
    const { opened } = this.#modelOf(one);
    const engine = await Engine.open(opened, this.#options({ ...one, io: {} }, PLENTY));
    try {
      engine.executor.begin(1);
      // The executor itself lets no such row through.
      failingDevice(engine.backend, 0, 1);
      const slices = [{ startPosition: 0, tokens: Int32Array.of(1), pages: [0], stateSlot: 0 }];
      const microBatches = new LateFeeds(engine.plan).place([{ slices, outputs: Int32Array.of(0) }], ['one']);
      const error = await failureOf(engine.executor.run({ perDevice: [microBatches] }));
      insist(isCode(error, 'DEVICE_FAILED') && String(error).includes('1000'), 'a bad table gave', error);
      await engine.executor.end();
    } finally {
      await engine.close();
    }
  }

  async #runPlain(one: SoakCase): Promise<string> {
    const options = this.#tightOptions(one);
    const engine = await openOrRefuse(this.#modelOf(one).opened, options);
    if (!engine) {
      const mayRefuse = one.dramShort !== undefined || one.deviceShort !== undefined;
      insist(mayRefuse || one.plan.deviceResident !== undefined, 'a plan with room was', 'refused');
      return 'refused';
    }
    try {
      const startMs = performance.now();
      const results = await this.#resultsOf(engine, one);
      this.#modelOf(one).usualMs = performance.now() - startMs;
      insist(
        engine.executor.leasedBuffers === 0,
        'buffers still out after a run:',
        engine.executor.leasedBuffers,
      );
      await this.#compare(one, engine.plan, results, true);
      return one.event === 'score' ? 'same score' : 'same tokens';
    } finally {
      await engine.close();
    }
  }

  async #runInterrupted(one: SoakCase): Promise<string> {
    const model = this.#modelOf(one);
    const engine = await openOrRefuse(model.opened, this.#tightOptions(one));
    if (!engine) return 'refused';
    const controller = new AbortController();
    let closing: Promise<void> | undefined;
    const stop = setTimeout(() => {
      if (one.event === 'close') closing = engine.close();
      else controller.abort(new OperatingError('INTERRUPTED', 'the soak stops a run'));
    }, one.moment * model.usualMs);
    const told = new Map<number, number[]>();
    const run = this.#generate(engine, one, controller.signal, (index, token) => {
      told.set(index, [...(told.get(index) ?? []), token]);
    });
    const error = await failureOf(run);
    clearTimeout(stop);
    await closing;
    // Twice does no harm.
    await Promise.all([engine.close(), engine.close()]);
    insist(error === undefined || isCode(error, 'INTERRUPTED'), 'an interruption gave', error);
    await this.#compare({ ...one, event: 'generate' }, engine.plan, told, error === undefined);
    return error === undefined ? 'done before it was stopped' : 'interrupted';
  }

  async #runReadError(one: SoakCase): Promise<string> {
    const { opened } = this.#modelOf(one);
    const sizeBytes = statSync(present(opened.checkpoint.files[0], 'file')).size;
    const offset = Math.floor(one.moment * sizeBytes);
    const faults = { errorAtFileOffset: { offset, errno: constants.errno.EIO } };
    const plain = { ...one, event: 'generate' as const, io: { ...one.io, faults } };
    try {
      // No read may cover that byte: rows of a table that no token asks for.
      return `${await this.#runPlain(plain)} beside a bad block`;
    } catch (error) {
      insist(isCode(error, 'READ_FAILED'), 'a bad block gave', error);
      return 'read failed';
    }
  }

  async #resultsOf(engine: Engine, one: SoakCase): Promise<Results> {
    if (one.event !== 'score') return this.#generate(engine, one);
    const { nll } = await score(engine.executor, this.#modelOf(one).scored, { windowTokens: WINDOW_TOKENS });
    return new Map([[0, [nll]]]);
  }

  async #generate(
    engine: Engine,
    one: SoakCase,
    signal?: AbortSignal,
    onToken?: (index: number, token: number) => void,
  ): Promise<Results> {
    const prompts = this.#modelOf(one).prompts.slice(0, PROMPTS_OF[one.batchSize]);
    const requests = prompts.map(
      (promptTokens, index): GenerationRequest => ({
        index,
        promptTokens,
        ...(one.sampled ? { sampling: DRAWN } : {}),
      }),
    );
    const results = await generate(engine.executor, requests, {
      batchSize: one.batchSize,
      maxNewTokens: NEW_TOKENS,
      stopTokens: new Set(),
      ...(signal ? { signal } : {}),
      ...(onToken ? { onToken } : {}),
    });
    return new Map(results.map(({ index, tokens }) => [index, tokens]));
  }

  /** @param whole false: texts were cut off, and must be the beginnings of those of a plain placement */
  async #compare(one: SoakCase, plan: Plan, results: Results, whole: boolean): Promise<void> {
    const reference = await this.#referenceFor(one, plan);
    for (const [index, tokens] of results) {
      const expected = present(reference.get(index), 'reference');
      const compared = whole ? expected : expected.slice(0, tokens.length);
      insist(
        `${tokens}` === `${compared}`,
        `prompt ${index} gave ${tokens}, and in a plain placement`,
        compared,
      );
      this.compared++;
    }
  }

  /** Nothing short, nothing at rest on devices, all from the drive, cut alike: made at first need. */
  async #referenceFor(one: SoakCase, plan: Plan): Promise<Results> {
    const { microBatchTokens, microBatchSequences } = plan;
    // GPUs use other kernels for few tokens than for many; on the CPU nothing that else is in a batch matters.
    const cut = [one.batchSize, microBatchTokens, microBatchSequences, plan.passTokens];
    const all = this.#devices.kind === 'cpu' && one.event !== 'score';
    const placed = { ...one, batchSize: all ? 12 : one.batchSize, offload: 'nvme' as const, io: {} };
    const { activationType } = one.plan;
    const type = activationType ? { activationType } : {};
    const key = [
      one.model,
      one.event,
      one.sampled,
      activationType,
      ...(this.#devices.kind === 'cpu' ? [] : cut),
    ].join(' ');
    const known = this.#references.get(key);
    if (known) return known;
    const cutAlike = all ? {} : { microBatchTokens, microBatchSequences, passTokens: plan.passTokens };
    const options = this.#options({ ...placed, plan: { ...cutAlike, ...type } }, PLENTY);
    const engine = await Engine.open(this.#modelOf(one).opened, options);
    try {
      insist(all || engine.plan.passTokens === plan.passTokens, 'a plain plan cuts passes', 'otherwise');
      const results = await this.#resultsOf(engine, placed);
      this.#references.set(key, results);
      return results;
    } finally {
      await engine.close();
    }
  }

  #modelOf(one: SoakCase): SoakModel {
    return present(this.#models.get(one.model), 'model');
  }

  /** Budgets as the round has them: what a plan with plenty takes, less a share of its layers. */
  #tightOptions(one: SoakCase): EngineOptions {
    const generous = this.#options(one, PLENTY);
    const plan = planOrRefuse(this.#modelOf(one).opened, generous);
    if (!plan) return generous;
    const short = (tier: 'dram' | 'gpu', share: number | undefined, plenty: number) => {
      if (share === undefined) return plenty;
      const all = plan.terms.reduce((sum, term) => sum + (term.tier === tier ? term.bytes : 0), 0);
      const layers = plan.layers.reduce((sum, { layout }) => sum + layout.host.sizeBytes, 0);
      return Math.max(KiB, Math.floor(all - share * layers));
    };
    return this.#options(one, {
      dramBudgetBytes: short('dram', one.dramShort, PLENTY.dramBudgetBytes),
      deviceBudgetBytes: short('gpu', one.deviceShort, PLENTY.deviceBudgetBytes),
    });
  }

  #options(one: SoakCase, budgets: Budgets): EngineOptions {
    const { kind, count } = this.#devices;
    const devices = Array.from({ length: count }, (_, index) => index);
    return {
      device: kind,
      offload: one.offload,
      dramBudgetBytes: budgets.dramBudgetBytes,
      deviceBudgetBytes: budgets.deviceBudgetBytes,
      plan: { ...(count > 0 ? { deviceBudgetBytes: budgets.deviceBudgetBytes } : {}), ...one.plan },
      workload: this.#workloadOf(one),
      ...(kind === 'cuda'
        ? { cuda: { devices, io: one.io } }
        : { cpu: { virtualDevices: count, io: one.io } }),
    };
  }

  #workloadOf(one: SoakCase): Workload {
    if (one.event === 'score') {
      const [sequences, contextTokens] = [one.batchSize, WINDOW_TOKENS];
      return { sequences, contextTokens, promptTokens: SCORED_TOKENS, output: 'nll' };
    }
    const lengths = PROMPT_LENGTHS.slice(0, PROMPTS_OF[one.batchSize]);
    return {
      sequences: one.batchSize,
      contextTokens: Math.max(...lengths) + NEW_TOKENS,
      promptTokens: lengths.reduce((sum, length) => sum + length, 0),
      output: 'tokens',
      history: one.sampled,
    };
  }
}

export async function openSoakModel(name: string, folder: string): Promise<SoakModel> {
  const opened = await openModel(folder);
  const random = randomFrom(name.length);
  const tokens = (length: number) =>
    Int32Array.from({ length }, () => randomInt(random, opened.model.vocabSize));
  return { name, opened, prompts: PROMPT_LENGTHS.map(tokens), scored: tokens(SCORED_TOKENS), usualMs: 20 };
}

function planOrRefuse(opened: OpenedModel, options: EngineOptions): Plan | undefined {
  try {
    return planFor(opened.model, options);
  } catch (error) {
    if (isCode(error, 'DOES_NOT_FIT')) return undefined;
    throw error;
  }
}

async function openOrRefuse(opened: OpenedModel, options: EngineOptions): Promise<Engine | undefined> {
  try {
    return await Engine.open(opened, options);
  } catch (error) {
    if (isCode(error, 'DOES_NOT_FIT')) return undefined;
    throw error;
  }
}

/** The reason of a rejection; undefined when there was none. */
async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
    return undefined;
  } catch (error) {
    return error;
  }
}

function isCode(error: unknown, code: ErrorCode): boolean {
  return error instanceof OperatingError && error.code === code;
}

function insist(holds: boolean, what: string, found: unknown): asserts holds {
  if (!holds) throw new Error(`${what} ${String(found)}`, { cause: found });
}
