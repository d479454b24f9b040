// What a group of devices sums through.

/** One device's end of it. */
export interface Exchange {
  /** No other in this process has it, and it is not 0. */
  readonly id: number;
  /** The device's place among `count`. */
  readonly rank: number;
  readonly count: number;
  /** Room for one partial; what is larger is summed in rounds. */
  readonly sizeBytes: number;
}

/**
 * What an end takes of its device's memory at most: two places for what each other rank has, so that one round is written while
 * another is read, the same of small sums, places for two rounds of sums where more than two ranks share the work, and flags.
 */
export function exchangeBytes(count: number, sizeBytes: number): number {
  const room = Math.ceil(sizeBytes / ROOM_ALIGNMENT_BYTES) * ROOM_ALIGNMENT_BYTES;
  const flags = (PHASES * count + 1) * FLAGS * 4;
  return flags + 2 * (count - 1) * (room + MARKED_ROOM_BYTES) + (count > 2 ? 2 * room : 0);
}

const ROOM_ALIGNMENT_BYTES = 256;
/** One per block of threads, as native/cuda/rank_exchange.h has them. */
const FLAGS = 256;
const PHASES = 2;
/** Each word of a small sum has its epoch beside it. */
const MARKED_ROOM_BYTES = 256 * 1024;
