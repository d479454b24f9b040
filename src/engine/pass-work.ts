// What a device does in a pass: of sequences whose next tokens are known, and of those that the pass before still draws.

import type { Executor, Plan } from '../../offload/index.js';
import type { LatePages } from './late-pages.js';
import { type PackedPass, packPass, type Work } from './packing.js';
import type { Sequence } from './sequence.js';

/** A device's part of a pass. */
export interface DeviceWork extends PackedPass<Sequence> {
  readonly work: readonly Work<Sequence>[];
  /** It begins before the pass before it has ended: some of its sequences may have come to an end meanwhile. */
  readonly isAhead?: boolean;
}

/** Packs the work, with what its sequences wish for. */
export function packWork(work: readonly Work<Sequence>[], plan: Plan, stepsAhead = 0): PackedPass<Sequence> {
  let [draws, isWatched, asks] = [false, false, false];
  for (const { sequence } of work) {
    draws ||= sequence.draws;
    isWatched ||= sequence.suspect !== undefined;
    asks ||= sequence.likelihoods !== undefined;
  }
  return packPass(work, plan, {
    sampling: draws ? (sequence) => sequence.draw(stepsAhead) : undefined,
    isWatched: isWatched ? ({ suspect }) => suspect !== undefined : undefined,
    likelihoods: asks ? ({ likelihoods }) => likelihoods : undefined,
  });
}

/** A token that is not known yet. */
const UNKNOWN = Int32Array.of(0);

/**
 * The pass behind one that is on its way: a token of each of its sequences, which that one draws. Undefined where it depends on
 * what is drawn; else made when it is called, which takes places that only this pass gives back.
 * @param grows whether the sequence has, or now gets, pages for so many tokens
 */
export function workAhead(
  { work }: DeviceWork,
  { model, plan }: Pick<Executor, 'model' | 'plan'>,
  pages: { readonly grows: (sequence: Sequence, tokens: number) => boolean; readonly late: LatePages },
): (() => DeviceWork) | undefined {
  if (model.lengthDependentAfterTokens !== undefined || model.recomputeAtTokens !== undefined)
    return undefined;
  if (!work.every(goesOn)) return undefined;
  if (!work.every(({ sequence, slice }) => pages.grows(sequence, slice.startPosition + 2))) return undefined;
  return () => {
    const next = work.map(({ sequence, slice }): Work<Sequence> => {
      const startPosition = slice.startPosition + 1;
      const { pageNumbers, stateSlot } = sequence;
      const place = { startPosition, knownTokens: startPosition + 1, pages: pageNumbers, stateSlot };
      return {
        sequence,
        slice: { ...place, tokens: UNKNOWN },
        outputs: [0],
        targets: undefined,
        after: undefined,
      };
    });
    const { microBatches, outputsOf } = packWork(next, plan, 1);
    const placed = pages.late.place(
      microBatches,
      work.map(({ sequence }) => sequence),
    );
    const drawn = placed.map((microBatch) => ({ ...microBatch, drawn: true }));
    return { work: next, microBatches: drawn, outputsOf, isAhead: true };
  };
}

/** The sequence takes a token in and goes on with the next one, whichever that is, unless it is one that ends the text. */
function goesOn({ sequence, slice, outputs, targets, after }: Work<Sequence>): boolean {
  const isStep = slice.tokens.length === 1 && outputs.length === 1 && !targets && !after;
  const known = slice.startPosition + 1;
  return (
    isStep &&
    isCurrent(sequence, slice.startPosition) &&
    sequence.drawsFreely &&
    known + 1 < sequence.mostTokens
  );
}

function isCurrent({ finishReason, suspect, fedTokens }: Sequence, startPosition: number): boolean {
  return finishReason === undefined && suspect === undefined && fedTokens === startPosition;
}

/** Whose part of the pass is nobody's: they have ended, or begun anew, while it was on its way. */
export function leftBehind({ work, isAhead = false }: DeviceWork): ReadonlySet<Sequence> {
  const gone = isAhead ? work.filter(({ sequence, slice }) => !isCurrent(sequence, slice.startPosition)) : [];
  return new Set(gone.map(({ sequence }) => sequence));
}
