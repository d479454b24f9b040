// Devices that sum wait for each other without end, so one that hangs and fails nothing would hang all of them: whether they get on.

import { OperatingError } from '../errors.js';
import type { DeviceEvent } from '../port/backend.js';

/** No layer of a pass computes so long on a GPU, whatever its tokens. */
export const PATIENCE_MS = 120_000;
/** How often it is looked within that time. */
const LOOKS = 8;

/** A layer that all devices have been given. */
interface Queued {
  readonly layer: string;
  /** By device: what its work on the layer waits for beside the other devices, and the end of that work. */
  readonly devices: readonly {
    readonly name: string;
    readonly ready: readonly DeviceEvent[];
    readonly done: DeviceEvent;
  }[];
}

const isReached = ({ timeMs }: DeviceEvent) => !Number.isNaN(timeMs);

export class Patience {
  readonly #patienceMs: number;
  readonly #giveUp: () => void;
  #queued: Queued[] = [];
  /** Since when the first of them could have been computed. */
  #sinceMs = 0;
  #timer: NodeJS.Timeout | undefined;
  /** Passes on their way: one may begin before the one before it has ended. */
  #running = 0;
  #lost: Promise<never> = new Promise(() => undefined);
  #failure: OperatingError | undefined;
  #reject: (failure: OperatingError) => void = () => undefined;

  /** @param giveUp ends all waiting; called once */
  constructor(patienceMs: number, giveUp: () => void) {
    this.#patienceMs = patienceMs;
    this.#giveUp = giveUp;
  }

  /** The pass's result, or a rejection as soon as devices have got nowhere for so long; from then on for every pass. */
  async during<T>(pass: () => Promise<T>): Promise<T> {
    if (this.#failure) throw this.#failure;
    if (this.#running++ === 0) this.#begin();
    const result = pass();
    // What it ends with behind the failure is of no interest.
    result.catch(() => undefined);
    try {
      return await Promise.race([result, this.#lost]);
    } finally {
      if (--this.#running === 0) clearInterval(this.#timer);
    }
  }

  #begin(): void {
    this.#queued = [];
    this.#sinceMs = performance.now();
    this.#lost = new Promise<never>((_, reject) => {
      this.#reject = reject;
    });
    this.#timer = setInterval(() => this.#look(), this.#patienceMs / LOOKS);
    this.#timer.unref();
  }

  queued(layer: Queued): void {
    this.#queued.push(layer);
  }

  #look(): void {
    const now = performance.now();
    for (;;) {
      const [first] = this.#queued;
      if (!first?.devices.every(({ done }) => isReached(done))) break;
      this.#queued.shift();
      this.#sinceMs = now;
    }
    const [first] = this.#queued;
    // Drives and links take as long as they take.
    if (!first?.devices.every(({ ready }) => ready.every(isReached))) this.#sinceMs = now;
    if (!first || now - this.#sinceMs < this.#patienceMs) return;
    const names = first.devices.filter(({ done }) => !isReached(done)).map(({ name }) => name);
    this.#failure = new OperatingError(
      'DEVICE_FAILED',
      `a device hangs: ${names.join(' and ')} ${names.length > 1 ? 'have' : 'has'} not computed ${first.layer} for ${(this.#patienceMs / 1e3).toFixed(0)} s, although ` +
        'all of it is there, and devices that sum wait for each other: look for Xid errors in the kernel log, and start again',
    );
    clearInterval(this.#timer);
    this.#reject(this.#failure);
    this.#giveUp();
  }
}
