// A native thread that computes for a device, as a worker of the port.

import type { HostMemory, HostWorker } from '../port/backend.js';
import { native } from '../port/native.js';
import type { NativeHostWorker } from '../port/native-devices.js';
import type { Op } from '../port/ops.js';
import type { ShareRates, ShareRule } from '../port/shares.js';
import type { MappedMemory } from './mapped-memory.js';
import { encodeOp, joinEncoded } from './op-encoding.js';

export class NativeWorker implements HostWorker {
  readonly mail: HostMemory;
  readonly #native: NativeHostWorker;

  constructor(name: string, mail: MappedMemory) {
    this.mail = mail;
    this.#native = new (native().NativeHostWorker)(name, mail.id);
  }

  get failure(): string {
    return this.#native.failure;
  }

  get rates(): ShareRates {
    return this.#native.rates;
  }

  define(ops: readonly Op[]): number {
    return this.#native.define(joinEncoded(ops.map((op) => encodeOp(op).slice())));
  }

  forget(job: number): void {
    this.#native.forget(job);
  }

  begin(): void {
    this.#native.begin();
  }

  end(): void {
    this.#native.end();
  }

  share(rule: ShareRule, rates: ShareRates): void {
    this.#native.share(rule, rates);
  }

  /** Whoever waits for a job waits no longer. */
  close(): void {
    this.#native.close();
  }
}
