// What the pass behind one will be like, as far as is known when that begins.

import type { Plan } from '../../offload/index.js';
import type { Work } from './packing.js';
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
