// How many slots a seed's world has for experts, and where its tables of tokens come to rest.

import { expertsOf } from '../../offload/model/experts.js';
import { layoutLayer } from '../../offload/model/layout.js';
import type { Plan } from '../../offload/plan/plan.js';
import { choicesOf } from '../../offload/plan/slots.js';
import { Random } from '../simulator/random.js';
import type { ToyModel } from './toy-model.js';

/** None for models without experts that slots can hold. */
export function slotsFor(
  { model }: ToyModel,
  random: Random,
  drawn: 'few' | 'some' | 'all' | 'none',
): number {
  const counts = model.blocks.flatMap((block) => expertsOf(layoutLayer(block))?.count ?? []);
  const [keys, least] = [counts.reduce((sum, count) => sum + count, 0), choicesOf(model)];
  if (keys === 0 || drawn === 'none') return 0;
  return { few: least, some: random.between(least, Math.max(least, keys)), all: keys }[drawn];
}

/** Where tables of tokens come to rest, if they do. */
export function tablesHome(seed: number, inSlots: boolean): Plan['tablesRest'] {
  const random = new Random(seed + 179_424_673);
  if (!random.chance(0.8)) return undefined;
  return inSlots || random.chance(0.5) ? 'dram' : 'gpu';
}
