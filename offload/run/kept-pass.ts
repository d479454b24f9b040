// A pass of a few tokens over layers at rest queues what the pass before it has queued: that is kept, and queued as it is.

import type { DeviceStream, KeptWork } from '../port/backend.js';
import type { Running } from './running.js';

/** A layer, or the embedding, that has not been queued yet. */
export interface LayerWork {
  /** The same object as long as it lies where it does. */
  readonly of: object;
  readonly queue: () => void;
}

/** Layers that are queued together. */
interface Part {
  readonly of: readonly object[];
  readonly work: KeptWork;
}

export class KeptPass {
  readonly #shape: readonly number[];
  readonly #parts: Part[] = [];
  #next = 0;

  constructor(running: Running) {
    this.#shape = shapeOf(running);
  }

  /** Whether its layers queue the same operations for this micro-batch. */
  fits(running: Running): boolean {
    const shape = shapeOf(running);
    return shape.length === this.#shape.length && shape.every((value, at) => value === this.#shape[at]);
  }

  begin(): void {
    this.#next = 0;
  }

  /** The layers that follow those of the last call: kept the first time, and again where one has moved. */
  queue(compute: DeviceStream, layers: readonly LayerWork[]): void {
    const index = this.#next++;
    let part = this.#parts[index];
    if (!part || !isOf(part, layers)) {
      const work = compute.keep(() => {
        for (const layer of layers) layer.queue();
      });
      part = { of: layers.map((layer) => layer.of), work };
      this.#parts[index] = part;
    }
    compute.repeat(part.work);
  }
}

/** What operations say of a micro-batch that is alone in its pass: where its tables lie, how long they are, and what is made. */
function shapeOf({ control, microBatch }: Running): readonly number[] {
  const { logProbs = false, topLogProbs = 0, targets, drawn = false } = microBatch;
  return [...control.layout, Number(logProbs), Number(targets !== undefined), topLogProbs, Number(drawn)];
}

function isOf(part: Part, layers: readonly LayerWork[]): boolean {
  return part.of.length === layers.length && layers.every((layer, at) => layer.of === part.of[at]);
}
