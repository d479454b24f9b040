// What a device asks of its host's processor in the middle of its queue, while it goes on itself: see native/ops/mailbox.h.

import type { Effects, Tensor } from './operands.js';

/** As native/ops/mailbox.h has them: words of host memory, and of the device's own. */
export const MAIL_WORDS = 48 + 1024 + 1;
export const MAIL_STATE_WORDS = 8;

/** Stands in a table of choices where an expert is computed elsewhere: nothing is computed and nothing written here. */
export const ELSEWHERE = -(2 ** 31);

/** How a device asks: what it and a thread of the host tell each other. */
export interface HostMail {
  /** i32 [MAIL_WORDS] of the host, page-locked */
  readonly words: Tensor;
  /** i32 [MAIL_STATE_WORDS] of the device */
  readonly state: Tensor;
}

/** Experts that lie in no slot and that the host computes in the device's place. */
export interface AsideExperts {
  /** i32 [T, k]: the choices that the device computes, and of the host those that it does; the others are ELSEWHERE. */
  readonly here: Tensor;
  readonly there: Tensor;
  /** Inputs [T, K] of the device, and f32 of the host; the choices' weights f32 [T, k], where the host's job takes them. */
  readonly x: Tensor;
  readonly hostX: Tensor;
  readonly weights: Tensor | null;
  readonly hostWeights: Tensor | null;
  readonly mail: HostMail;
  readonly job: number;
}

export type HostOp =
  /** Copies [T, K] to f32 of the host, and asks for a job. One job is on its way at a time. */
  | { readonly op: 'ask_host'; from: Tensor; to: Tensor; mail: HostMail; job: number }
  /**
   * Waits until what was asked is done. Then out [R, N] = from, f32 of the host: all of it, or the rows whose choice, i32 [T, k] with
   * R = T · k, is ELSEWHERE.
   */
  | { readonly op: 'take_host'; out: Tensor; from: Tensor; choices: Tensor | null; mail: HostMail };

export function hostEffects(op: HostOp): Effects {
  const { words, state } = op.mail;
  switch (op.op) {
    case 'ask_host':
      return { reads: [op.from, words, state], writes: [op.to, words, state] };
    case 'take_host':
      return {
        reads: [op.from, ...(op.choices ? [op.out, op.choices] : []), words, state],
        writes: [op.out, words, state],
      };
  }
}
