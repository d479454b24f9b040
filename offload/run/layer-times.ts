// When a device computed what in a pass: into the trace as soon as it is over, with the stalls between layers.

import { present } from '../errors.js';
import type { DeviceEvent } from '../port/backend.js';
import type { Span, Trace } from '../trace.js';

/** The embedding, or a layer. */
interface Timing {
  readonly name: string;
  readonly start: DeviceEvent;
  readonly end: DeviceEvent;
  /** The one before is of another pass. */
  readonly isFirst: boolean;
}

export class LayerTimes {
  readonly #owner: string;
  readonly #trace: Trace;
  readonly #timings: Timing[] = [];
  /** How many of them are in the trace. */
  #accounted = 0;
  #passIsWhole = true;
  #lastEnd: DeviceEvent | undefined;

  constructor(owner: string, trace: Trace) {
    this.#owner = owner;
    this.#trace = trace;
  }

  /** What a pass that was cut off has queued may never end. */
  beginPass(): void {
    this.#timings.splice(0, this.#passIsWhole ? this.#accounted : this.#timings.length);
    [this.#accounted, this.#passIsWhole, this.#lastEnd] = [0, false, undefined];
  }

  /** Nothing is added to the pass. */
  endPass(): void {
    this.#passIsWhole = true;
  }

  add(name: string, start: DeviceEvent, end: DeviceEvent): void {
    this.#timings.push({ name, start, end, isFirst: this.#lastEnd === undefined });
    this.#lastEnd = end;
  }

  /** What followed a layer over the link. */
  addCopies(copies: Pick<Span, 'owner' | 'name' | 'bytes'>, started: DeviceEvent, ended: DeviceEvent): void {
    this.#trace.addWhenReached({ lane: 'dram→gpu', ...copies }, started, ended);
  }

  /** What came from the device with the layers before. */
  addHandOver(bytes: number, started: DeviceEvent, ended: DeviceEvent): void {
    const span = { lane: 'gather', owner: this.#owner, name: 'hidden states', bytes } as const;
    this.#trace.addWhenReached(span, started, ended);
  }

  /** The end of what was added last to this pass. */
  get lastEnd(): DeviceEvent | undefined {
    return this.#lastEnd;
  }

  /** Enters what is over into the trace: most of it while the device has more to compute. */
  account(): void {
    while (this.#accounted < this.#timings.length) {
      const { name, start, end, isFirst } = present(this.#timings[this.#accounted], 'timing');
      if (Number.isNaN(end.timeMs)) return;
      const before = isFirst ? undefined : this.#timings[this.#accounted - 1];
      if (before) this.#trace.addComputeStall(Math.max(0, start.timeMs - before.end.timeMs), name);
      // Layers that ended together share the time alike.
      let after = this.#accounted;
      while (this.#timings[after]?.end === end) after++;
      const together = this.#timings.slice(this.#accounted, after);
      const eachMs = (end.timeMs - start.timeMs) / together.length;
      for (const [index, { name: layer }] of together.entries()) {
        const startMs = start.timeMs + index * eachMs;
        const endMs = index === together.length - 1 ? end.timeMs : startMs + eachMs;
        this.#trace.add({ lane: 'compute', owner: this.#owner, name: layer, startMs, endMs, bytes: 0 });
      }
      this.#accounted = after;
    }
  }
}
