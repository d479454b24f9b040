// The end of several layers that are queued together, recorded behind the last of them.

import type { DeviceEvent } from '../port/backend.js';

export class SharedEnd implements DeviceEvent {
  readonly #record: () => DeviceEvent;
  #event: DeviceEvent | undefined;

  constructor(record: () => DeviceEvent) {
    this.#record = record;
  }
  /** NaN until it is recorded and reached. */
  get timeMs(): number {
    return this.#event?.timeMs ?? Number.NaN;
  }
  get isRecorded(): boolean {
    return this.#event !== undefined;
  }
  /** Nothing that is queued from now on is before it. */
  record(): DeviceEvent {
    this.#event ??= this.#record();
    return this.#event;
  }
  reached(urgent?: boolean): Promise<void> {
    return this.record().reached(urgent);
  }
}
