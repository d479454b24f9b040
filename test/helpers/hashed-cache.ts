// An executor whose cache holds hashes in place of keys and values: whatever is read wrongly, too early or too late shows
// in the next token, and a pass takes microseconds.

import {
  type Executor,
  firstRead,
  type HorizonPages,
  type MicroBatch,
  NO_TOKEN,
  type PageRun,
  type Pass,
  type PassResult,
  pagesFor,
  present,
  type SequenceSlice,
} from '../../offload/index.js';
import { pagesIn } from '../../offload/run/pass.js';

export interface HashedSizes {
  readonly pageTokens: number;
  readonly kvPages: number;
  readonly sequences: number;
  readonly contextTokens: number;
  readonly passTokens: number;
  readonly microBatchTokens: number;
  readonly microBatchSequences: number;
}

export interface HashedSetting {
  readonly sizes: HashedSizes;
  readonly vocabSize: number;
  readonly deviceCount: number;
  /** Beyond it, what is written depends on how many tokens are known. */
  readonly lengthDependentAfterTokens?: number;
  readonly recomputeAtTokens?: number;
  /** A value that is written becomes no number. */
  readonly spoils?: () => boolean;
  /** The pass of this number fails, counted from 1. */
  readonly failingPass?: number;
  /** Passes wait for layers, as they do not else. */
  readonly streams?: boolean;
  /** Called where files are to be looked at. */
  readonly checkFiles?: () => void;
  /** A pass may begin before the one before it has ended. */
  readonly runsAhead?: boolean;
  /** Blocks beside the others that see only the latest tokens. */
  readonly horizons?: readonly HorizonPages[];
}

interface Slot {
  readonly value: number;
  readonly microBatch: number;
  readonly slice: SequenceSlice | undefined;
}

function mixed(a: number, b: number): number {
  let hash = Math.imul(a ^ b, 0x9e3779b1);
  hash = Math.imul(hash ^ (hash >>> 15), 0x85ebca6b);
  return hash ^ (hash >>> 13);
}

export class HashedCache {
  readonly #setting: HashedSetting;
  /** By device: the table of whole contexts, then those of horizons. */
  readonly #slots: Slot[][][];
  #microBatch = 0;
  /** By device: the tokens of the pass that was computed last. */
  readonly #drawn: number[][];
  #computed: Promise<unknown> = Promise.resolve();
  /** Passes whose tokens were not known when they began. */
  ahead = 0;
  #passesLeft = 0;
  isInSession = false;
  passes = 0;

  constructor(setting: HashedSetting) {
    this.#setting = setting;
    const { kvPages, pageTokens } = setting.sizes;
    this.#drawn = Array.from({ length: setting.deviceCount }, () => []);
    this.#slots = Array.from({ length: setting.deviceCount }, () =>
      [kvPages, ...(setting.horizons ?? []).map(({ pages }) => pages)].map((pages) =>
        Array.from({ length: pages * pageTokens }, (_, index) => ({
          value: index,
          microBatch: 0,
          slice: undefined,
        })),
      ),
    );
  }

  get executor(): Executor {
    const { sizes, vocabSize, deviceCount, lengthDependentAfterTokens, recomputeAtTokens } = this.#setting;
    const cache = this;
    // Names that an executor does not have any more are found by the compiler.
    const double: Partial<Record<keyof Executor, unknown>> = {
      plan: {
        ...sizes,
        layers: this.#setting.streams ? [{ tier: 'nvme' }] : [],
        horizons: this.#setting.horizons ?? [],
        kvBuffers: { count: 0, pages: 0 },
        historyTokens: 0,
        addedTokens: 0,
        topLogProbs: 0,
        maskWords: 0,
        nll: false,
        readLogits: false,
        activationType: 'f32',
      },
      model: {
        caches: [],
        vocabSize,
        maxContextTokens: sizes.contextTokens,
        lengthDependentAfterTokens,
        recomputeAtTokens,
        layers: [],
      },
      batchCount: deviceCount,
      runsAhead: this.#setting.runsAhead === true,
      get passesLeft() {
        return cache.#passesLeft;
      },
      begin: (passes: number) => {
        if (this.isInSession) throw new Error('a session has begun twice');
        this.isInSession = true;
        this.#passesLeft = passes;
      },
      limitPasses: (passes: number) => {
        this.#passesLeft = passes;
      },
      end: async () => {
        this.isInSession = false;
      },
      run: (pass: Pass) => this.#run(pass),
      checkFiles: () => this.#setting.checkFiles?.(),
    };
    return double as unknown as Executor;
  }

  /** The text that a prompt has alone. */
  text(prompt: Int32Array, newTokens: number): number[] {
    const all = [...prompt];
    const written = () => all.map((token, position) => this.#written(token, position, all.length));
    let slots = written();
    for (const tokens: number[] = []; ; ) {
      const next = this.#next(slots);
      tokens.push(next);
      all.push(next);
      if (tokens.length === newTokens) return tokens;
      if (all.length === this.#setting.recomputeAtTokens) slots = written();
      else slots.push(this.#written(next, all.length - 1, all.length));
    }
  }

  #written(token: number, position: number, knownTokens: number): number {
    const { lengthDependentAfterTokens: most = Number.POSITIVE_INFINITY, recomputeAtTokens } = this.#setting;
    const beyond = Math.max(0, knownTokens - most);
    const rotation = recomputeAtTokens === undefined ? beyond : Math.min(1, beyond);
    return mixed(mixed(token + 1, position * 7919 + 1), rotation);
  }

  #next(slots: readonly number[]): number {
    if (slots.some(Number.isNaN)) return NO_TOKEN;
    return (slots.reduce(mixed, 1) >>> 0) % this.#setting.vocabSize;
  }

  /** Devices compute passes in their order, and a pass that begins ahead has been queued before the one before it ends. */
  async #run(pass: Pass): Promise<PassResult[]> {
    if (!this.isInSession || this.#passesLeft-- <= 0) throw new Error('there is no pass left');
    const computed = this.#computed.then(() => this.#compute(pass));
    this.#computed = computed.catch(() => undefined);
    return computed;
  }

  /** The micro-batches with the tokens that they are to take. */
  #withDrawn(microBatches: readonly MicroBatch[], device: number): readonly MicroBatch[] {
    if (!microBatches.some(({ drawn }) => drawn)) return microBatches;
    this.ahead++;
    const drawn = this.#drawn[device]?.values();
    return microBatches.map((microBatch) => ({
      ...microBatch,
      slices: microBatch.slices.map((slice) => ({
        ...slice,
        tokens: Int32Array.of(Math.max(0, present(drawn?.next().value, 'a drawn token'))),
      })),
    }));
  }

  async #compute({ perDevice }: Pass): Promise<PassResult[]> {
    if (++this.passes === this.#setting.failingPass) throw new Error('the device has failed');
    if (this.passes > 100_000) throw new Error('the requests do not end');
    if (this.passes % 5 === 0) await new Promise((resolve) => setImmediate(resolve));
    return perDevice.map((given, device) => {
      const microBatches = this.#withDrawn(given, device);
      const tokens: number[] = [];
      const places: { tokens: number[]; outputs: number[] } = { tokens: [], outputs: [] };
      for (const { slices, outputs } of microBatches) {
        this.#microBatch++;
        this.#check(slices);
        for (const slice of slices) places.tokens.push(...this.#write(device, slice));
        const nexts = slices.flatMap((slice) => this.#nexts(device, slice));
        for (const index of outputs) {
          const next = present(nexts[index], 'output');
          tokens.push(next);
          places.outputs.push(next === NO_TOKEN ? 1 : -1);
        }
      }
      this.#drawn[device] = tokens;
      const watched = microBatches.some((microBatch) => microBatch.watched);
      return {
        tokens: Int32Array.from(tokens),
        logProbs: Float64Array.from(tokens, () => 0),
        nll: new Float64Array(0),
        logits: new Float32Array(0),
        ...(watched
          ? { places: { tokens: Int32Array.from(places.tokens), outputs: Int32Array.from(places.outputs) } }
          : {}),
      };
    });
  }

  #check(slices: readonly SequenceSlice[]): void {
    const { microBatchTokens, microBatchSequences } = this.#setting.sizes;
    const tokens = slices.reduce((sum, slice) => sum + slice.tokens.length, 0);
    if (tokens > microBatchTokens || slices.length > microBatchSequences)
      throw new Error('too much for a micro-batch');
  }

  #place({ firstPage, pages }: PageRun, position: number): number {
    const { pageTokens } = this.#setting.sizes;
    const page = present(pages[Math.floor(position / pageTokens) - firstPage], 'page');
    return page * pageTokens + (position % pageTokens);
  }

  #slotOf(device: number, table: number, slice: SequenceSlice, position: number): Slot {
    const slots = present(this.#slots[device]?.[table], 'slots');
    return present(slots[this.#place(pagesIn(slice, table), position)], 'slot');
  }

  /** By token: where it ceased to be a number. */
  #write(device: number, slice: SequenceSlice): number[] {
    const tables = present(this.#slots[device], 'device');
    const { startPosition, tokens, knownTokens = startPosition + tokens.length } = slice;
    return Array.from(tokens, (token, index) => {
      const isSpoilt = this.#setting.spoils?.() === true;
      const value = isSpoilt ? Number.NaN : this.#written(token, startPosition + index, knownTokens);
      tables.forEach((slots, table) => {
        const place = this.#place(pagesIn(slice, table), startPosition + index);
        const isTwice = slots[place]?.microBatch === this.#microBatch;
        if (isTwice) throw new Error('a micro-batch writes twice to one place');
        slots[place] = { value, microBatch: this.#microBatch, slice };
      });
      return isSpoilt ? 0 : -1;
    });
  }

  #nexts(device: number, slice: SequenceSlice): number[] {
    const end = slice.startPosition + slice.tokens.length;
    if (slice.pages.length < pagesFor(end, this.#setting.sizes.pageTokens))
      throw new Error('pages are missing');
    const values = Array.from({ length: end }, (_, position) => {
      const slot = this.#slotOf(device, 0, slice, position);
      // In DRAM, it would not be there yet.
      const isEarly = slot.microBatch === this.#microBatch && slot.slice !== slice;
      if (isEarly) throw new Error('a micro-batch reads what another sequence writes in it');
      return slot.value;
    });
    this.#setting.horizons?.forEach(({ horizon }, index) => {
      for (let position = firstRead(horizon, slice.startPosition); position < end; position++) {
        const { value } = this.#slotOf(device, 1 + index, slice, position);
        if (!Object.is(value, values[position])) throw new Error('a page that is read has gone to another');
      }
    });
    return Array.from(slice.tokens, (_, index) =>
      this.#next(values.slice(0, slice.startPosition + index + 1)),
    );
  }
}
