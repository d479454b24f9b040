// nvme→dram: a layer is read into a buffer that is leased for it, or once into the memory where it is to rest.

import { present } from '../errors.js';
import type { HostLayout } from '../model/layout.js';
import type { Plan } from '../plan/plan.js';
import type { HostMemory } from '../port/backend.js';
import type { Trace } from '../trace.js';
import { type Buffers, hostResidentFor, keepFill, residentFor } from './buffers.js';
import type { Lease } from './pool.js';
import type { Step } from './schedule.js';
import type { WeightSource } from './weight-source.js';

/** Reads of so many layers are queued, so that the drive goes on while JavaScript is busy. */
const FILLING_LAYERS = 8;

export interface DriveHopOptions {
  readonly plan: Plan;
  readonly source: WeightSource;
  readonly buffers: Buffers;
  readonly trace: Trace;
}

/** A layer's memory, and when the bytes are or were there. */
export interface Filling {
  readonly memory: HostMemory;
  readonly ready: Promise<number>;
}

export class DriveHop {
  readonly #plan: Plan;
  readonly #source: WeightSource;
  readonly #buffers: Buffers;
  readonly #trace: Trace;
  /** Layers that this session brings to the devices to rest there; what fails is tried again by the next one. */
  readonly #loading = new Set<number>();

  constructor({ plan, source, buffers, trace }: DriveHopOptions) {
    this.#plan = plan;
    this.#source = source;
    this.#buffers = buffers;
    this.#trace = trace;
  }

  /** False for the first step that brings the layer there. */
  restsOnDevices(step: Step): boolean {
    const { layerIndex } = step;
    const resident = residentFor(this.#buffers, step);
    if (!resident) return false;
    if (resident.ready || this.#loading.has(layerIndex)) return true;
    this.#loading.add(layerIndex);
    return false;
  }

  /** What the step needs of the layer where it rests in DRAM, read at most once; undefined where it does not rest there. */
  atRest(step: Step): Filling | undefined {
    const resident = hostResidentFor(this.#buffers, step);
    if (!resident) return undefined;
    const { memory, layout } = resident;
    const { layerIndex } = step;
    const begun = this.#buffers.filled.get(layerIndex);
    const { name } = present(this.#plan.layers[layerIndex], 'layer').layout.layer;
    return { memory, ready: begun ?? keepFill(this.#buffers, layerIndex, this.#read(name, layout, memory)) };
  }

  /** The layer, or a part of it, in a host buffer. */
  through({ buffer }: Lease<HostMemory>, name: string, layout: HostLayout): Promise<number> {
    return this.#read(name, layout, buffer);
  }

  /**
   * All layers into DRAM, however far the pass has come. Whoever waits for a layer is told of a failure.
   * @param goesOn asked before each layer
   */
  async fillAhead(goesOn: () => boolean): Promise<void> {
    const filling: Promise<number>[] = [];
    try {
      for (const layerIndex of this.#plan.layers.keys()) {
        if (filling.length === FILLING_LAYERS) await filling.shift();
        if (!goesOn()) break;
        filling.push(
          present(this.atRest({ layerIndex, passIndex: 0, position: layerIndex }), 'a resident layer').ready,
        );
      }
    } catch {
      // Nothing is to follow a layer that cannot be read.
    }
    await Promise.allSettled(filling);
  }

  #read(name: string, layout: HostLayout, into: HostMemory): Promise<number> {
    const ready = this.#trace.addRead(name, this.#source.readLayer(layout, into));
    // Whoever consumes the layer sees the error; until then it is not unhandled.
    ready.catch(() => undefined);
    return ready;
  }
}
