// What the pass behind one will be like, as far as is known when that begins.

import type { Plan } from '../../offload/index.js';
import type { Work } from './packing.js';
import type { Sequence } from './sequence.js';

/** What one device has. */
interface DeviceLoad {
  readonly work: readonly Work<Sequence>[];
  readonly alive: readonly Sequence[];
}

/** Some device is going to have more tokens than can bring what they choose. */
export function expectsWhole(slots: Plan['slots'], devices: readonly DeviceLoad[]): boolean {
  return slots !== undefined && devices.some((device) => tokensAfter(device) > slots.mostTokens);
}

/** If no sequence ends before it must, and none joins. */
function tokensAfter({ work, alive }: DeviceLoad): number {
  const fed = new Map(
    work.map(({ sequence, slice }) => [sequence, slice.startPosition + slice.tokens.length]),
  );
  return alive.reduce((sum, sequence) => {
    const { knownTokens, fedTokens, wanted, newTokens } = sequence;
    const left = knownTokens - (fed.get(sequence) ?? fedTokens);
    return sum + (left > 0 ? left : Number(newTokens.length + 1 < wanted.maxNewTokens));
  }, 0);
}
