// bring_experts in plain loops: who comes into which slot, and the bytes that are there then.

import { present } from '../../offload/errors.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import type { Values, Written } from './reference-values.js';

type BringOp = Extract<Op, { op: 'bring_experts' }>;

const ONE_USE = 1024;
const MOST_USES = 2 ** 30;
export const AGE_PASSES = 32;

export function broughtExperts(op: BringOp, read: (tensor: Tensor) => Values): Written[] {
  const { tables, firstKey, ageCalls } = op;
  const [slots, home, places, counts] = [
    read(op.slots),
    read(present(op.home, 'home')),
    read(op.places),
    read(op.counts),
  ];
  const [slotOf, uses, keyOf] = [read(tables.slotOf), read(tables.uses), read(tables.keyOf)];
  const [stamps, calls, list] = [read(tables.stamps), read(tables.calls), read(tables.list)];
  const wanted = [...new Set(read(op.experts).values)].sort((a, b) => a - b);
  const call = calls.get(0) + 1;
  calls.set(call, 0);
  if (call % ageCalls === 0) {
    for (let key = 0; key < uses.size(0); key++) uses.set(Math.trunc(uses.get(key) / 2), key);
  }
  for (const expert of wanted) {
    const key = firstKey + expert;
    if (uses.get(key) < MOST_USES) uses.set(uses.get(key) + ONE_USE, key);
    if (slotOf.get(key) >= 0) stamps.set(call, slotOf.get(key));
  }
  const missing = wanted.filter((expert) => slotOf.get(firstKey + expert) < 0);
  counts.set(counts.get(0) + wanted.length - missing.length, 0);
  counts.set(counts.get(1) + missing.length, 1);
  list.set(missing.length, 0);
  for (const [i, expert] of missing.entries()) {
    const slot = leaving({ keyOf, stamps, uses }, { call, firstKey, passCalls: ageCalls / AGE_PASSES });
    if (keyOf.get(slot) >= 0) slotOf.set(-1, keyOf.get(slot));
    keyOf.set(firstKey + expert, slot);
    slotOf.set(slot, firstKey + expert);
    stamps.set(call, slot);
    list.set(expert, 1 + 2 * i);
    list.set(slot, 2 + 2 * i);
    for (let part = 0; part < places.size(1) / 2; part++) {
      const to = places.get(0, 2 * part);
      const [low, high] = [places.get(1 + expert, 2 * part), places.get(1 + expert, 2 * part + 1)];
      const from = high * 2 ** 32 + (low >>> 0);
      for (let at = 0; at < places.get(0, 2 * part + 1); at++) slots.set(home.get(from + at), slot, to + at);
    }
  }
  return [slots, counts, slotOf, uses, keyOf, stamps, calls, list].map(({ written }) => written);
}

/**
 * A free slot, or the one whose expert was wanted least before this pass; of equals the one that was wanted last, and then the first.
 */
function leaving(
  { keyOf, stamps, uses }: Record<'keyOf' | 'stamps' | 'uses', Values>,
  {
    call,
    firstKey,
    passCalls,
  }: { readonly call: number; readonly firstKey: number; readonly passCalls: number },
): number {
  let best = { slot: -1, uses: Number.POSITIVE_INFINITY, age: 0 };
  for (let slot = 0; slot < keyOf.size(0); slot++) {
    const key = keyOf.get(slot);
    const age = call - stamps.get(slot);
    if (key >= 0 && age === 0) continue;
    const inThisPass = key < firstKey && age < Math.floor(passCalls);
    const count = key < 0 ? -1 : Math.max(0, uses.get(key) - (inThisPass ? ONE_USE : 0));
    const isBetter = count < best.uses || (count === best.uses && key >= 0 && age < best.age);
    if (best.slot < 0 || isBetter) best = { slot, uses: count, age };
  }
  return best.slot;
}
