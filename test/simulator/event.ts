// Simulated events: points that streams and JavaScript wait for.

import type { DeviceEvent } from '../../offload/port/backend.js';
import type { Deferred, VirtualClock } from './clock.js';
import type { Failure } from './collective.js';

export interface EventWorld {
  readonly clock: VirtualClock;
  /** Until JavaScript hears of something that happened. */
  noticeMs(): number;
}

export class SimulatedEvent implements DeviceEvent {
  readonly name: string;
  readonly #world: EventWorld;
  #timeMs = Number.NaN;
  #failure: Failure | undefined;
  #streams: (() => void)[] = [];
  #promise: Promise<void> | undefined;
  #deferred: Deferred<void> | undefined;

  constructor(name: string, world: EventWorld) {
    this.name = name;
    this.#world = world;
  }

  get timeMs(): number {
    return this.#timeMs;
  }

  get isSettled(): boolean {
    return this.#failure !== undefined || !Number.isNaN(this.#timeMs);
  }

  get failure(): Failure | undefined {
    return this.#failure;
  }

  reached(): Promise<void> {
    if (!this.#promise) {
      const { clock } = this.#world;
      this.#deferred = clock.deferred<void>(this.name);
      this.#promise = this.#deferred.promise;
      if (this.isSettled) this.#tell();
    }
    return this.#promise;
  }

  whenSettled(wake: () => void): void {
    this.#streams.push(wake);
  }

  /** @param failure why its stream will never reach it */
  settle(failure: Failure | undefined): void {
    if (failure) this.#failure = failure;
    else this.#timeMs = this.#world.clock.nowMs;
    if (this.#deferred) this.#tell();
    for (const wake of this.#streams.splice(0)) wake();
  }

  #tell(): void {
    this.#world.clock.after(this.#world.noticeMs(), () => {
      if (this.#failure) this.#deferred?.reject(this.#failure.error);
      else this.#deferred?.resolve();
    });
  }
}
