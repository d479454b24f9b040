// Cuts sequences into passes and micro-batches of the planned sizes.

import {
  type MicroBatch,
  type Plan,
  present,
  type SamplingRow,
  type SequenceSlice,
} from '../../offload/index.js';

/** A piece of one sequence's work in a pass. */
export interface Work<S> {
  readonly sequence: S;
  readonly slice: SequenceSlice;
  /** Indices of the slice's tokens whose output is wanted. */
  readonly outputs: readonly number[];
  /** Output `nll`: the token that follows, per output. */
  readonly targets?: readonly number[];
}

/** Micro-batches of one pass, and whose outputs they yield, in the order of the pass's results. */
export interface PackedPass<S> {
  readonly microBatches: readonly MicroBatch[];
  readonly outputsOf: readonly S[];
}

type PlannedSizes = Pick<Plan, 'microBatchTokens' | 'microBatchSequences' | 'passTokens'>;

/** Work on consecutive tokens from `start`, cut so that no piece is larger than a micro-batch. */
export function cutSequence<S>(
  sequence: S,
  tokens: Int32Array,
  start: number,
  pages: readonly number[],
  plan: PlannedSizes,
  wanted: (position: number) => boolean,
  target?: (position: number) => number,
  knownTokens = start + tokens.length,
): Work<S>[] {
  const work: Work<S>[] = [];
  for (let first = 0; first < tokens.length; first += plan.microBatchTokens) {
    const piece = tokens.subarray(first, first + plan.microBatchTokens);
    const outputs: number[] = [];
    for (let index = 0; index < piece.length; index++) if (wanted(start + first + index)) outputs.push(index);
    work.push({
      sequence,
      slice: { startPosition: start + first, tokens: piece, knownTokens, pages },
      outputs,
      ...(target ? { targets: outputs.map((index) => target(start + first + index)) } : {}),
    });
  }
  return work;
}

/** Groups work into passes of at most `passTokens`; the order is kept, so a sequence's pieces follow each other. */
export function cutPasses<S>(work: readonly Work<S>[], plan: PlannedSizes): Work<S>[][] {
  const passes: Work<S>[][] = [];
  let tokens = Number.POSITIVE_INFINITY;
  for (const item of work) {
    if (tokens + item.slice.tokens.length > plan.passTokens) {
      passes.push([]);
      tokens = 0;
    }
    present(passes.at(-1), 'pass').push(item);
    tokens += item.slice.tokens.length;
  }
  return passes;
}

/** What a sequence is to take in next: tokens from position `start`, of whose last one the output is wanted. */
export interface Feed<S> {
  readonly sequence: S;
  readonly tokens: Int32Array;
  readonly start: number;
  readonly pages: readonly number[];
}

/**
 * The work of one pass: as much of the feeds, in their order, as it takes. Pieces end where a micro-batch is full, so
 * that `packPass` fills every one but those that reach the limit of sequences first. A feed that is cut short yields
 * no output; it goes on in a later pass.
 */
export function fillPass<S>(feeds: readonly Feed<S>[], plan: PlannedSizes): Work<S>[] {
  const work: Work<S>[] = [];
  let left = plan.passTokens;
  let [room, places] = [plan.microBatchTokens, plan.microBatchSequences];
  for (const { sequence, tokens, start, pages } of feeds) {
    for (let first = 0; first < tokens.length && left > 0; ) {
      if (room === 0 || places === 0) [room, places] = [plan.microBatchTokens, plan.microBatchSequences];
      const piece = tokens.subarray(first, first + Math.min(left, room));
      const slice = {
        startPosition: start + first,
        tokens: piece,
        knownTokens: start + tokens.length,
        pages,
      };
      first += piece.length;
      work.push({ sequence, slice, outputs: first === tokens.length ? [piece.length - 1] : [] });
      left -= piece.length;
      room -= piece.length;
      places--;
    }
  }
  return work;
}

/**
 * Passes until each feed is taken in whole, when all sequences whose feed is one token go on to the end.
 * @param feedTokens lengths of the feeds, in the order in which `fillPass` is given them: single tokens first
 */
export function passesToFeed(feedTokens: readonly number[], plan: PlannedSizes): number[] {
  let [pass, left] = [1, plan.passTokens];
  let going = 0;
  return feedTokens.map((tokens) => {
    for (let wanted = tokens; ; ) {
      const taken = Math.min(wanted, left);
      wanted -= taken;
      left -= taken;
      if (wanted === 0) break;
      pass++;
      left = Math.max(1, plan.passTokens - going);
    }
    going++;
    return pass;
  });
}

/**
 * Packs a pass's work into micro-batches, first come first packed; two pieces of a sequence never share one.
 * @param sampling how the token of an output is drawn; absent: the likeliest
 * @param isWatched it is to be noted where the sequence ceases to be finite
 */
export function packPass<S>(
  work: readonly Work<S>[],
  plan: PlannedSizes,
  sampling?: (sequence: S) => SamplingRow,
  isWatched?: (sequence: S) => boolean,
): PackedPass<S> {
  const groups: Work<S>[][] = [];
  let tokens = Number.POSITIVE_INFINITY;
  for (const item of work) {
    const group = groups.at(-1);
    const full =
      !group ||
      tokens + item.slice.tokens.length > plan.microBatchTokens ||
      group.length >= plan.microBatchSequences ||
      group.some(({ sequence }) => sequence === item.sequence);
    if (full) {
      groups.push([item]);
      tokens = item.slice.tokens.length;
    } else {
      group.push(item);
      tokens += item.slice.tokens.length;
    }
  }
  return {
    microBatches: groups.map((group) => ({
      ...toMicroBatch(group, sampling),
      ...(isWatched && group.some(({ sequence }) => isWatched(sequence)) ? { watched: true } : {}),
    })),
    outputsOf: work.flatMap(({ sequence, outputs }) => outputs.map(() => sequence)),
  };
}

function toMicroBatch<S>(
  group: readonly Work<S>[],
  sampling: ((sequence: S) => SamplingRow) | undefined,
): MicroBatch {
  const outputs: number[] = [];
  const targets: number[] = [];
  let first = 0;
  for (const { slice, outputs: wanted, targets: follow } of group) {
    outputs.push(...wanted.map((index) => first + index));
    targets.push(...(follow ?? []));
    first += slice.tokens.length;
  }
  return {
    slices: group.map(({ slice }) => slice),
    outputs: Int32Array.from(outputs),
    ...(sampling
      ? { sampling: group.flatMap(({ sequence, outputs: own }) => own.map(() => sampling(sequence))) }
      : {}),
    ...(targets.length > 0 ? { targets: Int32Array.from(targets) } : {}),
  };
}
