// Layers at rest that a device is handed several at a time, with one end: few at first, so that it begins at once.

import { present } from '../errors.js';
import type { DeviceEvent, DeviceStream } from '../port/backend.js';
import type { KeptPass, LayerWork } from './kept-pass.js';
import { SharedEnd } from './shared-end.js';

/** At most half of the layers that are queued beyond those that the device has reached. */
const MOST_TOGETHER = 8;

interface LayerGroup {
  readonly start: DeviceEvent;
  readonly end: SharedEnd;
  readonly most: number;
  size: number;
  /** Those that are queued when the group is complete. */
  readonly waiting: LayerWork[];
}

export class LayerGroups {
  readonly #compute: DeviceStream;
  #group: LayerGroup | undefined;
  #mostTogether = 1;
  /** What the pass before has queued; undefined where nobody waits. */
  #kept: KeptPass | undefined;

  constructor(compute: DeviceStream) {
    this.#compute = compute;
  }

  /** What a pass that was cut off has not queued never is. */
  beginPass(): void {
    this.drop();
    [this.#kept, this.#mostTogether] = [undefined, 1];
  }

  /** What is queued from now on in this pass is kept there. */
  keep(kept: KeptPass): void {
    this.#kept = kept;
  }

  /** What the pass before has queued is queued again. */
  get areKept(): boolean {
    return this.#kept !== undefined;
  }

  /** The one that a layer belongs to. @param startOf where a new one starts */
  open(startOf: () => DeviceEvent): LayerGroup {
    if (this.#group?.end.isRecorded) this.close();
    this.#group ??= this.begin(startOf());
    return this.#group;
  }

  begin(start: DeviceEvent): LayerGroup {
    const [compute, kept] = [this.#compute, this.#kept];
    const waiting: LayerWork[] = [];
    const end = new SharedEnd(() => {
      if (waiting.length > 0) present(kept, 'what is kept').queue(compute, waiting);
      return compute.record();
    });
    this.#group = { start, end, most: this.#mostTogether, size: 0, waiting };
    return this.#group;
  }

  /** Queues a layer of the open one at once, or with it, which is complete with so many. */
  add(group: LayerGroup, work: LayerWork): void {
    if (this.#kept) group.waiting.push(work);
    else work.queue();
    if (++group.size === group.most) this.close();
  }

  close(): void {
    this.#group?.end.record();
    if (this.#group) this.#mostTogether = Math.min(MOST_TOGETHER, 2 * this.#group.most);
    this.#group = undefined;
  }

  drop(): void {
    if (this.#group) this.#group.waiting.length = 0;
    this.#group?.end.record();
    this.#group = undefined;
  }
}
