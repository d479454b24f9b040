// What a device asks of its host's processor in the middle of its queue, while it goes on itself: see native/ops/mailbox.h.

import type { FilePieces } from './file-pieces.js';
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

/** As native/ops/exchange.h has them: i32 words of what a device asks, before and for each expert; and of a row of what was found. */
export const ASKED_HEAD_WORDS = 3;
export const ASKED_EACH_WORDS = 5;
export const FOUND_HEAD_WORDS = 3;

/** Experts whose home is the drive, and of which some lie in slots of the host. */
export interface HostSlots {
  /** u8 [count, bytes] of the host, page-locked */
  readonly slots: Tensor;
  /** i32 [ASKED_HEAD_WORDS + ASKED_EACH_WORDS · E] and [E, FOUND_HEAD_WORDS + 2 · P] of the host, page-locked */
  readonly asked: Tensor;
  readonly found: Tensor;
  readonly mail: HostMail;
  /** `find_experts` */
  readonly job: number;
}

/** What the host knows of its slots. A key is the place of an expert among those of all layers. */
export interface HostSlotTables {
  /** i32 [keys]: the slot of each expert, or -1. */
  readonly slotOf: Tensor;
  /** i32 [slots]: the key of the expert in each, or -1; how often it was wanted lately, and which call of the device wanted it last. */
  readonly keyOf: Tensor;
  readonly uses: Tensor;
  readonly stamps: Tensor;
  /** i32 [slots]: the key of the expert that was read into each last, whose parts begin where those of the expert there do. */
  readonly readAs: Tensor;
  /** i32 [1]: calls of the device until now. */
  readonly calls: Tensor;
}

export type HostOp =
  /** Copies [T, K] to f32 of the host, and asks for a job. One job is on its way at a time. */
  | { readonly op: 'ask_host'; from: Tensor; to: Tensor; mail: HostMail; job: number }
  /**
   * Waits until what was asked is done. Then out [R, N] = from, f32 of the host: all of it, or the rows whose choice, i32 [T, k] with
   * R = T · k, is ELSEWHERE.
   */
  | { readonly op: 'take_host'; out: Tensor; from: Tensor; choices: Tensor | null; mail: HostMail }
  /**
   * The host's part of `bring_experts` with experts behind: finds those that are asked for in slots u8 [count, bytes] or reads them into
   * some, and says of each where it is as soon as it is there. Who leaves the device lies there then, if both are alike: i32 [keys].
   * begins i32 [keys, P]: where each part begins in a slot that was read as the key. counts i32 [2] grow by those that lay in a slot, and
   * by those that were read.
   */
  | {
      readonly op: 'find_experts';
      asked: Tensor;
      found: Tensor;
      slots: Tensor;
      begins: Tensor;
      alike: Tensor;
      tables: HostSlotTables;
      counts: Tensor;
      ageCalls: number;
      files: FilePieces;
    };

function findEffects(op: HostOp & { op: 'find_experts' }): Effects {
  const { slotOf, keyOf, uses, stamps, readAs, calls } = op.tables;
  const kept = [slotOf, keyOf, uses, stamps, readAs, calls, op.counts];
  return { reads: [op.asked, op.begins, op.alike, ...kept], writes: [op.found, op.slots, ...kept] };
}

export function hostEffects(op: HostOp): Effects {
  if (op.op === 'find_experts') return findEffects(op);
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
