// What the pass behind one will be like, as far as is known when that begins.

import type { Executor, Plan } from '../../offload/index.js';
import { type Feed, passesToFeed, type Work } from './packing.js';
import type { Sequence } from './sequence.js';

/** What one device has. */
interface DeviceLoad {
  readonly work: readonly Work<Sequence>[];
  readonly alive: readonly Sequence[];
}

/**
 * Some device is going to have more tokens than can bring what they choose.
 * @param othersWait for places here: they bring as much as those that end have brought
 */
export function expectsWhole(
  slots: Plan['slots'],
  devices: readonly DeviceLoad[],
  othersWait: boolean,
): boolean {
  if (!slots) return false;
  return devices.some((device) => {
    const { tokens, someEnd } = after(device);
    const before = device.work.reduce((sum, { slice }) => sum + slice.tokens.length, 0);
    return tokens > slots.mostTokens || (othersWait && someEnd && before > slots.mostTokens);
  });
}

/** Passes that sequences need at most that have room to their ends, if no others join. */
export function passesAhead(
  feeds: readonly Feed<Sequence>[],
  { model, plan }: Pick<Executor, 'model' | 'plan'>,
): number {
  const fed = passesToFeed(
    feeds.map(({ tokens }) => tokens.length),
    plan,
  );
  const { recomputeAtTokens: again = Number.POSITIVE_INFINITY } = model;
  const roomPerPass = Math.max(1, plan.passTokens - feeds.length);
  let [longest, extra] = [0, 0];
  feeds.forEach(({ sequence }, index) => {
    const { knownTokens, wanted, newTokens } = sequence;
    const left = Math.max(1, wanted.maxNewTokens - newTokens.length);
    longest = Math.max(longest, (fed[index] ?? 0) + left - 1);
    // Whoever outgrows the length is taken in again from its start, which may keep others waiting.
    if (knownTokens < again && knownTokens + left > again) extra += Math.ceil(again / roomPerPass) + 1;
  });
  return longest + extra;
}

/** If no sequence ends before it must, and none joins. */
function after({ work, alive }: DeviceLoad): { readonly tokens: number; readonly someEnd: boolean } {
  const fed = new Map(
    work.map(({ sequence, slice }) => [sequence, slice.startPosition + slice.tokens.length]),
  );
  let [tokens, someEnd] = [0, false];
  for (const sequence of alive) {
    const { knownTokens, fedTokens, wanted, newTokens } = sequence;
    const left = knownTokens - (fed.get(sequence) ?? fedTokens);
    const goesOn = newTokens.length + 1 < wanted.maxNewTokens;
    tokens += left > 0 ? left : Number(goesOn);
    someEnd ||= left === 0 && !goesOn;
  }
  return { tokens, someEnd };
}
