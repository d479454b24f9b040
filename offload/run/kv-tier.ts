// A device's cached keys and values: all in its memory, or in DRAM and brought to it block by block, behind and ahead.

import { assert, present } from '../errors.js';
import { pagesOwner } from '../model/cache-spec.js';
import { type HorizonPages, pageTables } from '../model/horizon.js';
import {
  blockPageBytes,
  type KvShape,
  type LayerCache,
  layerCache,
  layerCaches,
  PAGE_TOKENS,
  type PageCounts,
  pagesFor,
} from '../model/kv-cache.js';
import type { Device, DeviceEvent, HostMemory } from '../port/backend.js';
import type { Memory } from '../port/ops.js';
import type { Trace } from '../trace.js';
import { type MicroBatch, type PageRun, pagesIn, type SequenceSlice } from './pass.js';

/** For every pass: `begin`, then per block and micro-batch `enter`, the block's kernels, `leave`. */
export interface KvTier {
  /** All of it is where kernels read it, so that nothing is queued here. */
  readonly isResident: boolean;
  /** The micro-batches with page numbers as kernels are to read them. */
  begin(microBatches: readonly MicroBatch[]): readonly MicroBatch[];
  /**
   * The cache that the block's kernels use for this micro-batch; they are queued after what brings it. Undefined where the
   * block reads no pages.
   */
  enter(block: number, microBatch: number): LayerCache | undefined;
  /** What the kernels wrote goes where it rests. */
  leave(block: number, microBatch: number): void;
  /** Resolves when nothing queued here runs any more; never rejects. */
  idle(): Promise<void>;
}

/** All of it in the device's memory. */
export class ResidentKv implements KvTier {
  readonly isResident = true;
  readonly #caches: readonly (LayerCache | undefined)[];

  constructor(memory: Memory, shape: KvShape, counts: PageCounts) {
    this.#caches = layerCaches(memory, shape, counts);
  }

  begin(microBatches: readonly MicroBatch[]): readonly MicroBatch[] {
    return microBatches;
  }

  enter(block: number): LayerCache | undefined {
    return this.#caches[block];
  }

  leave(): void {}

  async idle(): Promise<void> {}
}

export interface StreamedKvOptions {
  readonly device: Device;
  /** Per block that has some of its own: pages one after the other, keys and values of a page beside each other. */
  readonly host: readonly (HostMemory | undefined)[];
  readonly shape: KvShape;
  /** Each holds the pages of one micro-batch in one block. */
  readonly buffers: readonly Memory[];
  /** By page table. */
  readonly bufferPages: readonly number[];
  readonly horizons: readonly HorizonPages[];
  readonly trace: Trace;
}

/** Consecutive pages, both where they rest and in the buffer. */
interface CopyRun {
  readonly hostPage: number;
  readonly bufferPage: number;
  count: number;
}

/** A slice's pages in one table, up to page `end`. */
interface TableSlice extends PageRun {
  readonly startPosition: number;
  readonly end: number;
}

interface Traffic {
  /** What was stored before the pass, or by other micro-batches of it. */
  readonly loads: readonly CopyRun[];
  readonly stores: readonly CopyRun[];
  /** Every page of its sequences. */
  readonly all: readonly CopyRun[];
  /** The micro-batch of the same pass, before this one, that stores what this one loads. */
  readonly follows: number | undefined;
}

interface Buffer {
  readonly memory: Memory;
  /** Until which its former content is read or stored. */
  after: DeviceEvent | undefined;
}

/**
 * Buffers take turns: each is filled by the `load` stream, used by `compute`, and emptied by the `store` stream, with
 * nothing but events between them, so that loads run ahead of compute by as many buffers as there are.
 */
export class StreamedKv implements KvTier {
  readonly isResident = false;
  readonly #options: StreamedKvOptions;
  readonly #buffers: readonly Buffer[];
  readonly #pageTokens: number;
  #turn = 0;
  /** By block. */
  readonly #tables: readonly number[];
  /** By page table and micro-batch. */
  #traffic: readonly (readonly Traffic[])[] = [];
  /** Per block: the last store of earlier passes, and those of this pass by micro-batch. */
  readonly #before = new Map<number, DeviceEvent>();
  #stored = new Map<number, Map<number, DeviceEvent>>();

  constructor(options: StreamedKvOptions) {
    assert(options.buffers.length > 0, 'there are buffers for keys and values');
    this.#options = options;
    this.#buffers = options.buffers.map((memory) => ({ memory, after: undefined }));
    this.#pageTokens = options.shape.pageTokens ?? PAGE_TOKENS;
    this.#tables = pageTables(options.shape.caches, options.horizons);
  }

  begin(microBatches: readonly MicroBatch[]): readonly MicroBatch[] {
    for (const [block, events] of this.#stored) {
      // Stores of one stream end in order, so the last one stands for all.
      const last = [...events.values()].at(-1);
      if (last) this.#before.set(block, last);
    }
    this.#stored = new Map();
    this.#traffic = this.#options.bufferPages.map((_, table) => {
      const storedBy = new Map<number, number>();
      return microBatches.map((microBatch, index) =>
        trafficOf(this.#pagesOf(microBatch, table), index, storedBy, this.#pageTokens),
      );
    });
    return microBatches.map((microBatch) => this.#renumbered(microBatch));
  }

  enter(block: number, microBatch: number): LayerCache | undefined {
    const { device, shape, bufferPages } = this.#options;
    const owner = pagesOwner(shape.caches, block);
    const cache = owner === undefined ? undefined : shape.caches[owner];
    if (owner === undefined || cache?.kind !== 'paged') return undefined;
    const table = this.#tables[block] ?? 0;
    const inTable = present(this.#traffic[table], 'page table');
    const traffic = present(inTable[microBatch], 'micro-batch');
    // Pages of another block are loaded as this pass left them: a later micro-batch may have stored the same ones.
    const [loads, follows] =
      owner === block ? [traffic.loads, traffic.follows] : [traffic.all, inTable.length - 1];
    const buffer = this.#current();
    const filler = loads.length > 0 ? device.load : device.compute;
    if (buffer.after) filler.wait(buffer.after);
    if (loads.length > 0) {
      const stored = follows === undefined ? this.#before.get(owner) : this.#stored.get(owner)?.get(follows);
      if (stored) device.load.wait(stored);
      const started = device.load.record();
      for (const run of loads) {
        const { to, from, bytes } = this.#bytesOf(run, owner);
        device.load.copy(buffer.memory, to, this.#host(owner), from, bytes);
      }
      device.compute.wait(this.#ended('load', owner, started, loads));
    }
    const pageCount = present(bufferPages[table], 'pages of a buffer');
    return layerCache(buffer.memory, 0, cache, { ...shape, pageCount });
  }

  leave(block: number, microBatch: number): void {
    const { device, shape } = this.#options;
    const owner = pagesOwner(shape.caches, block);
    if (owner === undefined) return;
    const buffer = this.#current();
    this.#turn++;
    const computed = device.compute.record();
    if (owner !== block) {
      buffer.after = computed;
      return;
    }
    const { stores } = present(this.#traffic[this.#tables[block] ?? 0]?.[microBatch], 'micro-batch');
    device.store.wait(computed);
    const started = device.store.record();
    for (const run of stores) {
      const { to, from, bytes } = this.#bytesOf(run, block);
      device.store.copy(this.#host(block), from, buffer.memory, to, bytes);
    }
    const ended = this.#ended('store', block, started, stores);
    buffer.after = ended;
    const stored = this.#stored.get(block) ?? new Map<number, DeviceEvent>();
    this.#stored.set(block, stored.set(microBatch, ended));
  }

  async idle(): Promise<void> {
    const { load, store } = this.#options.device;
    await Promise.allSettled([load, store].map((stream) => stream.record().reached()));
  }

  #current(): Buffer {
    return present(this.#buffers[this.#turn % this.#buffers.length], 'buffer');
  }

  #host(block: number): HostMemory {
    return present(this.#options.host[block], 'keys and values of a block');
  }

  #bytesOf({ bufferPage, hostPage, count }: CopyRun, block: number) {
    const each = blockPageBytes(this.#options.shape, block);
    return { to: bufferPage * each, from: hostPage * each, bytes: count * each };
  }

  /** Pages by their place in the buffer, where the sequences of the micro-batch lie one after the other. */
  #renumbered(microBatch: MicroBatch): MicroBatch {
    const next = this.#options.bufferPages.map(() => 0);
    const slices = microBatch.slices.map((slice) => {
      const [whole, ...latestPages] = next.map((first, table) => {
        const { firstPage, end } = this.#pagesOfSlice(slice, table);
        next[table] = first + end - firstPage;
        return { firstPage, pages: Array.from({ length: end - firstPage }, (_, index) => first + index) };
      });
      return { ...slice, ...present(whole, 'pages'), latestPages };
    });
    const fits = next.every((pages, table) => pages <= (this.#options.bufferPages[table] ?? 0));
    assert(fits, 'a buffer holds the pages of a micro-batch');
    return { ...microBatch, slices };
  }

  #pagesOf({ slices }: MicroBatch, table: number): TableSlice[] {
    return slices.map((slice) => this.#pagesOfSlice(slice, table));
  }

  #pagesOfSlice(slice: SequenceSlice, table: number): TableSlice {
    const { startPosition, tokens } = slice;
    const end = pagesFor(startPosition + tokens.length, this.#pageTokens);
    return { ...pagesIn(slice, table), startPosition, end };
  }

  #ended(kind: 'load' | 'store', block: number, started: DeviceEvent, runs: readonly CopyRun[]): DeviceEvent {
    const { device, trace } = this.#options;
    const ended = device[kind].record();
    const bytes =
      runs.reduce((sum, { count }) => sum + count, 0) * blockPageBytes(this.#options.shape, block);
    const lane = kind === 'load' ? 'kv dram→gpu' : 'kv gpu→dram';
    trace.addWhenReached({ lane, owner: device.name, name: `block ${block}`, bytes }, started, ended);
    return ended;
  }
}

/**
 * Loads what earlier passes, or micro-batches, have stored of its sequences; stores the pages it writes to.
 * @param storedBy by page: the last micro-batch of the pass that stores it; this one's are added
 */
function trafficOf(
  slices: readonly TableSlice[],
  microBatch: number,
  storedBy: Map<number, number>,
  pageTokens: number,
): Traffic {
  const loads: CopyRun[] = [];
  const stores: CopyRun[] = [];
  const all: CopyRun[] = [];
  const stored: number[] = [];
  let first = 0;
  let follows = -1;
  for (const { startPosition, end, firstPage, pages } of slices) {
    const known = pagesFor(startPosition, pageTokens);
    for (let index = firstPage; index < end; index++) {
      const hostPage = present(pages[index - firstPage], 'page');
      const bufferPage = first + index - firstPage;
      append(all, hostPage, bufferPage);
      if (index < known) {
        append(loads, hostPage, bufferPage);
        // Sequences share pages, so another one's may be among them.
        follows = Math.max(follows, storedBy.get(hostPage) ?? -1);
      }
      if (index >= Math.floor(startPosition / pageTokens)) {
        append(stores, hostPage, bufferPage);
        stored.push(hostPage);
      }
    }
    first += end - firstPage;
  }
  for (const hostPage of stored) storedBy.set(hostPage, microBatch);
  return { loads, stores, all, follows: follows < 0 ? undefined : follows };
}

function append(runs: CopyRun[], hostPage: number, bufferPage: number): void {
  const last = runs.at(-1);
  const continues =
    last && last.hostPage + last.count === hostPage && last.bufferPage + last.count === bufferPage;
  if (continues) last.count++;
  else runs.push({ hostPage, bufferPage, count: 1 });
}
