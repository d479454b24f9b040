// Who answers at which mailbox: kernels that ask know the memory of its words alone.

import { present } from '../../offload/errors.js';
import type { Memory } from '../../offload/port/ops.js';

export interface Answering {
  readonly name: string;
  /** A job is on its way. */
  readonly isBusy: boolean;
  /** Why jobs fail; empty while none has. */
  readonly failure: string;
  /** How many of so many missing experts the host computes; the same for the same call. */
  shareOf(missing: number, call: number): number;
  whenDone(wake: () => void): void;
  ask(job: number): void;
}

const answering = new WeakMap<Memory, Answering>();

export function answerAt(mail: Memory, who: Answering): void {
  answering.set(mail, who);
}

export function workerOf(mail: Memory): Answering {
  return present(answering.get(mail), 'a worker of this mailbox');
}
