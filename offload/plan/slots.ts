// Experts in slots: what devices hold in place of whole layers, which passes bring only what is chosen, and how many bytes those move.

import { expertsOf, type LayerExperts } from '../model/experts.js';
import { ForwardWalk } from '../model/forward-walk.js';
import type { LayerLayout } from '../model/layout.js';
import type { ModelSpec } from '../model/model.js';
import { dimension } from '../port/tensor.js';
import { touchedExperts } from './op-cost.js';
import type { Plan, PlannedExperts, PlannedLayer, SlotPlan } from './plan.js';

/** Beyond these, a micro-batch's products take long enough to hide whole layers that come beside them. */
const MOST_CHOOSING_TOKENS = 256;

/** By layer; undefined where a layer has none. */
export function plannedExperts(layouts: readonly LayerLayout[]): (PlannedExperts | undefined)[] {
  let firstKey = 0;
  return layouts.map((layout) => {
    const experts = expertsOf(layout);
    if (!experts) return undefined;
    const planned = { ...experts, firstKey };
    firstKey += experts.count;
    return planned;
  });
}

/** Whether a pass of few tokens finds every layer on the devices, but for experts that it chooses. */
export function isAtRest({ layers, slots }: Pick<Plan, 'layers' | 'slots'>): boolean {
  return layers.every(({ tier, experts }) => tier === 'gpu' || (slots && experts));
}

/** Experts that a token of each block goes to, at most; 0 where none has experts. */
export function choicesOf(model: ModelSpec): number {
  const before = known.get(model);
  if (before !== undefined) return before;
  let most = 0;
  const walk = new ForwardWalk(model, { activationType: 'f32', kvType: 'f32' }, (op) => {
    if (op.op === 'route') most = Math.max(most, dimension(op.experts, 1));
  });
  for (let index = 0; index < model.blocks.length; index++) walk.block(index, 1);
  known.set(model, most);
  return most;
}

const known = new WeakMap<ModelSpec, number>();

/** Tokens whose choices always find slots, so that a pass of them can bring what it chooses. */
export function mostChoosingTokens(slots: number, choices: number, experts: number): number {
  return slots >= experts
    ? MOST_CHOOSING_TOKENS
    : Math.min(MOST_CHOOSING_TOKENS, Math.floor(slots / choices));
}

/** Whether a pass of micro-batches of so many tokens brings only the experts that it chooses. */
export function choosesExperts(slots: SlotPlan | undefined, microBatchTokens: readonly number[]): boolean {
  const [tokens, more] = microBatchTokens;
  return slots !== undefined && tokens !== undefined && more === undefined && tokens <= slots.mostTokens;
}

/** Bytes that a layer's chosen experts are expected to bring, if all are as likely and those in slots are any. */
export function broughtBytes(
  { experts }: Pick<PlannedLayer, 'experts'>,
  slots: SlotPlan,
  tokens: number,
): number {
  if (!experts) return 0;
  const share = Math.max(0, 1 - slots.count / slots.keys);
  return touchedExperts(experts.count, slots.choices, tokens) * share * experts.slotBytes;
}

/** Words of the tables that a device keeps of its slots. */
export interface SlotWords {
  readonly slotOf: number;
  readonly uses: number;
  readonly keyOf: number;
  readonly stamps: number;
  readonly calls: number;
  readonly list: number;
  /** By layer with experts. */
  readonly counts: number;
  readonly places: number;
}

export function slotWords(
  slots: Pick<SlotPlan, 'count' | 'keys'>,
  layers: readonly LayerExperts[],
): SlotWords {
  const sum = (of: (layer: LayerExperts) => number) => layers.reduce((all, layer) => all + of(layer), 0);
  return {
    slotOf: slots.keys,
    uses: slots.keys,
    keyOf: slots.count,
    stamps: slots.count,
    calls: 1,
    list: 1 + 2 * layers.reduce((most, { count }) => Math.max(most, count), 0),
    counts: 2 * layers.length,
    places: sum(({ count, parts }) => (1 + count) * 2 * parts.length),
  };
}

export function totalWords(words: SlotWords): number {
  return Object.values(words).reduce((all: number, one: number) => all + one, 0);
}
