// Cuts sequences into passes and micro-batches of the planned sizes.

import type { MicroBatch, Plan, SamplingRow, SequenceSlice } from '../../offload/index.js';

/** A piece of one sequence's work in a pass. */
export interface Work<S> {
  readonly sequence: S;
  readonly slice: SequenceSlice;
  /** Indices of the slice's tokens whose output is wanted. */
  readonly outputs: readonly number[];
  /** Where the likelihood of given tokens is wanted: the token that follows, per output. */
  readonly targets: readonly number[] | undefined;
  /** What this one wrote to the cache is read here, so the two never share a micro-batch. */
  readonly after: S | undefined;
}

/** Micro-batches of one pass, and whose outputs they yield, in the order of the pass's results. */
export interface PackedPass<S> {
  readonly microBatches: readonly MicroBatch[];
  readonly outputsOf: readonly S[];
}

type PlannedSizes = Pick<Plan, 'microBatchTokens' | 'microBatchSequences' | 'passTokens'>;

/** What a sequence is to take in next: tokens from position `start`. */
export interface Feed<S> {
  readonly sequence: S;
  readonly tokens: Int32Array;
  readonly start: number;
  readonly pages: readonly number[];
  /** See SequenceSlice. */
  readonly stateSlot?: number | undefined;
  /** Default `last`: of the last token the next one is wanted. */
  readonly outputs?: 'last' | 'all' | 'none';
  /** With outputs `all`: the token that follows each of `tokens`. */
  readonly targets?: Int32Array;
  /** Default: those up to the last of `tokens`. */
  readonly knownTokens?: number;
  /** Its pages are being filled by another sequence, which has to have come so far before this one begins. */
  readonly after?: { readonly sequence: S; readonly position: number };
}

/**
 * The work of one pass: as much of the feeds, in their order, as it takes. Pieces end where a micro-batch is full, so
 * that `packPass` fills every one but those that reach the limit of sequences first. A feed that is cut short yields
 * no output; it goes on in a later pass. One that waits for a sequence which does not come so far in this pass is left
 * out.
 * @param mostOutputs of a pass: a feed with outputs `all` is cut short where there are no more
 */
export function fillPass<S>(
  feeds: readonly Feed<S>[],
  plan: PlannedSizes,
  mostOutputs = Number.POSITIVE_INFINITY,
): Work<S>[] {
  const work: Work<S>[] = [];
  let left = plan.passTokens;
  // Each may have one; the others are for those of which all are wanted.
  let outputsLeft = mostOutputs - feeds.length;
  let [room, places] = [plan.microBatchTokens, plan.microBatchSequences];
  let firstOfMicroBatch = 0;
  const nextMicroBatch = () => {
    [room, places] = [plan.microBatchTokens, plan.microBatchSequences];
    firstOfMicroBatch = work.length;
  };
  for (const feed of feeds) {
    if (left === 0) break;
    const { sequence, start, pages, stateSlot, after, knownTokens = start + feed.tokens.length } = feed;
    const tokens = feed.outputs === 'all' ? feed.tokens.subarray(0, 1 + outputsLeft) : feed.tokens;
    if (feed.outputs === 'all') outputsLeft -= Math.max(0, tokens.length - 1);
    if (work.length > firstOfMicroBatch && isScored(work.at(-1)) !== isScored(feed)) nextMicroBatch();
    if (after) {
      if (reachedBy(work, after.sequence) < after.position) continue;
      if (work.slice(firstOfMicroBatch).some((item) => item.sequence === after.sequence)) nextMicroBatch();
    }
    for (let first = 0; first < tokens.length && left > 0; ) {
      if (room === 0 || places === 0) nextMicroBatch();
      const piece = tokens.subarray(first, first + Math.min(left, room));
      const end = first + piece.length;
      work.push({
        sequence,
        slice: { startPosition: start + first, tokens: piece, knownTokens, pages, stateSlot },
        outputs: outputsOf(feed, first, end),
        targets: feed.targets && [...feed.targets.subarray(first, end)],
        after: after?.sequence,
      });
      first = end;
      left -= piece.length;
      room -= piece.length;
      places--;
    }
  }
  return work;
}

/** Its outputs are how likely given tokens are: they share no micro-batch with those that yield new ones. */
function isScored(item: { readonly targets?: ArrayLike<number> | undefined } | undefined): boolean {
  return item?.targets !== undefined;
}

/** Those that go on with one token come first, as nobody waits for the prompts of newcomers; those that are scored last. */
export function inTurn<S>(feeds: readonly Feed<S>[]): Feed<S>[] {
  const goesOn = ({ tokens, after }: Feed<S>) => tokens.length === 1 && !after;
  const free = feeds.filter((feed) => !isScored(feed));
  const [going, coming] = [free.filter(goesOn), free.filter((feed) => !goesOn(feed))];
  return going.concat(coming, feeds.filter(isScored));
}

/** Positions that a sequence has taken in when this work is done; 0 where it has none. */
function reachedBy<S>(work: readonly Work<S>[], sequence: S): number {
  const slice = work.findLast((item) => item.sequence === sequence)?.slice;
  return slice ? slice.startPosition + slice.tokens.length : 0;
}

/** Which of the feed's tokens from `first` to `end` have an output, by their place in the piece. */
function outputsOf<S>({ outputs = 'last', tokens }: Feed<S>, first: number, end: number): number[] {
  if (outputs === 'all') return Array.from({ length: end - first }, (_, index) => index);
  return outputs === 'last' && end === tokens.length ? [end - first - 1] : [];
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

/** What a pass is to yield of its sequences, beside the likeliest tokens. */
export interface PassWishes<S> {
  /** How the token of an output is drawn; absent: the likeliest. */
  readonly sampling?: ((sequence: S) => SamplingRow) | undefined;
  /** It is to be noted where the sequence ceases to be finite. */
  readonly isWatched?: ((sequence: S) => boolean) | undefined;
  /** How likely its tokens are is wanted, and so many of the likeliest in place of each; undefined: neither. */
  readonly likelihoods?: ((sequence: S) => number | undefined) | undefined;
}

/** Packs a pass's work into micro-batches, first come first packed; two pieces of a sequence never share one. */
export function packPass<S>(
  work: readonly Work<S>[],
  plan: PlannedSizes,
  wishes: PassWishes<S> = {},
): PackedPass<S> {
  const groups: Work<S>[][] = [];
  let tokens = Number.POSITIVE_INFINITY;
  for (const item of work) {
    const group = groups.at(-1);
    const full =
      !group ||
      tokens + item.slice.tokens.length > plan.microBatchTokens ||
      group.length >= plan.microBatchSequences ||
      isScored(group[0]) !== isScored(item) ||
      group.some(({ sequence }) => sequence === item.sequence || sequence === item.after);
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
      ...toMicroBatch(group, wishes.sampling),
      ...(isWished(group, wishes.isWatched) ? { watched: true } : {}),
      ...likelihoodsOf(group, wishes),
    })),
    outputsOf: work.flatMap(({ sequence, outputs }) => outputs.map(() => sequence)),
  };
}

function isWished<S>(group: readonly Work<S>[], wish: ((sequence: S) => boolean) | undefined): boolean {
  return wish !== undefined && group.some(({ sequence }) => wish(sequence));
}

/** As many of the likeliest as any of them wants. */
function likelihoodsOf<S>(
  group: readonly Work<S>[],
  { likelihoods }: PassWishes<S>,
): Pick<MicroBatch, 'logProbs' | 'topLogProbs'> {
  const most = likelihoods ? Math.max(...group.map(({ sequence }) => likelihoods(sequence) ?? -1)) : -1;
  if (most < 0) return {};
  return { logProbs: true, ...(most > 0 ? { topLogProbs: most } : {}) };
}

function toMicroBatch<S>(
  group: readonly Work<S>[],
  sampling: ((sequence: S) => SamplingRow) | undefined,
): MicroBatch {
  const outputs: number[] = [];
  const targets: number[] = [];
  let first = 0;
  for (const { slice, outputs: wanted, targets: follow } of group) {
    for (const index of wanted) outputs.push(first + index);
    if (follow) for (const target of follow) targets.push(target);
    first += slice.tokens.length;
  }
  return {
    slices: group.map(({ slice }) => slice),
    outputs: Int32Array.from(outputs),
    ...(sampling && targets.length === 0
      ? { sampling: group.flatMap(({ sequence, outputs: own }) => own.map(() => sampling(sequence))) }
      : {}),
    ...(targets.length > 0 ? { targets: Int32Array.from(targets) } : {}),
  };
}
