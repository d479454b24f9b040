// Reads the first layers into DRAM before there is a device or a plan: starting a driver takes as long as gigabytes do.

import type { NativeBackend } from '../backends/native-backend.js';
import { NativeHost } from '../backends/native-host.js';
import { expertsOf } from '../model/experts.js';
import { type HostLayout, layoutLayer } from '../model/layout.js';
import type { ModelSpec } from '../model/model.js';
import type { WeightFile } from '../model/stripes.js';
import type { HostMemory, ReadSpan } from '../port/backend.js';
import type { IoOptions } from '../port/native-io.js';
import { GiB } from '../units.js';
import { WeightSource } from './weight-source.js';

/** A layer in its own memory, or on its way there. */
export interface LoadedLayer {
  readonly memory: HostMemory;
  readonly layout: HostLayout;
  readonly read: Promise<ReadSpan>;
  /** Devices reach the memory, once the read is done. */
  readonly ready: Promise<unknown>;
  /** Gives the memory back, once nothing reads or fills it any more. */
  readonly free: () => void;
}

export interface LoadAheadOptions {
  readonly io?: Partial<IoOptions>;
  /** So much is read at most, where it is not known yet where layers will rest; default all of them, which rest in DRAM then. */
  readonly mostBytes?: number;
}

/** As much is queued at once: what a drive reads while JavaScript waits for a driver. */
const QUEUED_BYTES = 4 * GiB;

/**
 * Blocks are read in order, from construction until a backend takes over: all of them where they will rest in DRAM, whatever the
 * devices are, else the first ones. Those that are to rest elsewhere pass through the memory that they were read into.
 */
export class LoadAhead {
  readonly host: NativeHost;
  readonly #model: ModelSpec;
  readonly #source: WeightSource;
  readonly #mostBytes: number;
  readonly #loaded = new Map<number, Omit<LoadedLayer, 'ready' | 'free'>>();
  #queuedBytes = 0;
  #bytes = 0;
  #ended = false;

  /** Throws an OperatingError where a file cannot be opened, or memory not be mapped. */
  constructor(
    model: ModelSpec,
    paths: readonly WeightFile[],
    { io = {}, mostBytes = Number.POSITIVE_INFINITY }: LoadAheadOptions = {},
  ) {
    this.#model = model;
    this.#mostBytes = mostBytes;
    this.host = new NativeHost(io);
    this.#source = new WeightSource(this.host, paths);
    this.#fill();
  }

  /** By index of the block. No other is begun; the backend must have this host. */
  handOver(backend: NativeBackend): ReadonlyMap<number, LoadedLayer> {
    this.#ended = true;
    const adopted = new Map<number, LoadedLayer>();
    for (const [index, { memory, layout, read }] of this.#loaded) {
      const ready = observed(backend.adopt(memory, read));
      adopted.set(index, { memory, layout, read, ready, free: () => this.host.free(memory) });
    }
    return adopted;
  }

  /** Where no backend took over; does no harm after that one's close. Resolves when nothing is read any more. */
  close(): Promise<void> {
    this.#ended = true;
    return this.host.close();
  }

  #fill(): void {
    for (const block of this.#model.blocks.slice(this.#loaded.size)) {
      if (this.#ended || this.#queuedBytes >= QUEUED_BYTES) return;
      const whole = layoutLayer(block);
      const { host: layout } = whole;
      if (this.#bytes + layout.sizeBytes > this.#mostBytes) return;
      // Where there will be slots, experts come one by one.
      if (this.#mostBytes < Number.POSITIVE_INFINITY && expertsOf(whole)) return;
      const memory = this.host.allocate(layout.sizeBytes, 'resident');
      const read = observed(this.#source.readLayer(layout, memory));
      this.#bytes += layout.sizeBytes;
      this.#queuedBytes += layout.sizeBytes;
      this.#loaded.set(this.#loaded.size, { memory, layout, read });
      const goOn = () => {
        this.#queuedBytes -= layout.sizeBytes;
        this.#fill();
      };
      // Whoever wants a layer is told that its read failed; the plan will ask again for memory that is refused.
      read.then(goOn).catch(() => {
        this.#ended = true;
      });
    }
  }
}

/** Whoever waits for it sees its failure; until somebody does, it is not unhandled. */
function observed<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
