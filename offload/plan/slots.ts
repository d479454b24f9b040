// Experts in slots: what devices hold in place of whole layers, which passes bring only what is chosen, and how many bytes those move.

import { expertFilesOf } from '../model/expert-files.js';
import { expertsOf, type LayerExperts } from '../model/experts.js';
import { ForwardWalk } from '../model/forward-walk.js';
import { recordHostPart } from '../model/host-part.js';
import type { LayerLayout } from '../model/layout.js';
import type { ModelSpec } from '../model/model.js';
import { ASKED_EACH_WORDS, ASKED_HEAD_WORDS, FOUND_HEAD_WORDS, MAIL_STATE_WORDS } from '../port/host-ops.js';
import type { ShareRates } from '../port/shares.js';
import { dimension } from '../port/tensor.js';
import { kindsOf } from './block-kinds.js';
import { touchedExperts } from './op-cost.js';
import { isAloneWithin } from './pass-sizes.js';
import type {
  CpuCompute,
  DramSlotPlan,
  HostSharePlan,
  Plan,
  PlannedExperts,
  PlannedLayer,
  SlotPlan,
} from './plan.js';

/** Beyond these, a micro-batch's products take long enough to hide whole layers that come beside them. */
const MOST_CHOOSING_TOKENS = 256;

/**
 * By layer; undefined where a layer has none.
 * @param computesInPlace experts come from files, not from DRAM
 */
export function plannedExperts(
  layouts: readonly LayerLayout[],
  computesInPlace: boolean,
): (PlannedExperts | undefined)[] {
  let firstKey = 0;
  return layouts.map((layout) => {
    const experts = expertsOf(layout);
    if (!experts) return undefined;
    const files = computesInPlace ? expertFilesOf(layout, experts) : undefined;
    const { slotBytes } = files ?? experts;
    const planned = { ...experts, slotBytes, files, firstKey };
    firstKey += experts.count;
    return planned;
  });
}

/** Whether a pass of few tokens finds every layer on the devices, but for experts that it chooses. */
export function isAtRest({ layers, slots }: Pick<Plan, 'layers' | 'slots'>): boolean {
  return layers.every(({ tier, inShards, experts }) => (tier === 'gpu' && !inShards) || (slots && experts));
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

/** Whole layers are read ahead while others are computed, so chosen experts must be less than this share of them. */
const MOST_READ_SHARE = 0.75;

/** The same where the chosen come from the drive: at least one token, then as many as want well under all of a layer. */
export function mostReadingTokens(
  slots: Pick<SlotPlan, 'count' | 'keys' | 'choices' | 'behind'>,
  experts: number,
): number {
  const most = mostChoosingTokens(slots.count, slots.choices, experts);
  const share = missedShare({ ...slots, count: slots.count + (slots.behind?.count ?? 0) }) / experts;
  const isLittle = (tokens: number) =>
    !(touchedExperts(experts, slots.choices, tokens) * share > MOST_READ_SHARE);
  if (isLittle(most)) return most;
  // More tokens touch more experts: the most lies in [few, many).
  let [few, many] = [1, most];
  while (many - few > 1) {
    const tokens = Math.floor((few + many) / 2);
    if (isLittle(tokens)) few = tokens;
    else many = tokens;
  }
  return few;
}

/** The share of chosen experts that lie in no slot, if all are as likely and those in slots are any. */
function missedShare({ count, keys }: Pick<SlotPlan, 'count' | 'keys'>): number {
  return Math.max(0, 1 - count / keys);
}

/** Whether a pass of micro-batches of so many tokens brings only the experts that it chooses. */
export function choosesExperts(slots: SlotPlan | undefined, microBatchTokens: readonly number[]): boolean {
  return isAloneWithin(slots, microBatchTokens);
}

/** Bytes that a layer's chosen experts are expected to bring, if all are as likely and those in slots are any. */
export function broughtBytes(
  { experts }: Pick<PlannedLayer, 'experts'>,
  slots: SlotPlan,
  tokens: number,
): number {
  if (!experts) return 0;
  return touchedExperts(experts.count, slots.choices, tokens) * missedShare(slots) * experts.slotBytes;
}

/** Bytes that the drive is expected to bring of a layer's chosen experts, where these lie in slots of DRAM or on the drive. */
export function readBytes(
  { experts }: Pick<PlannedLayer, 'experts'>,
  { behind, count, keys, choices }: SlotPlan,
  tokens: number,
): number {
  if (!experts || !behind) return 0;
  const share = missedShare({ count: count + behind.count, keys });
  return touchedExperts(experts.count, choices, tokens) * share * behind.bytes;
}

/** The host helps where tokens are few: with more, an expert takes longer there than on its way to the device. */
const MOST_HOST_TOKENS = 64;
/** What the link brings, and the host computes: where an engine begins, before it has measured. */
const LINK_BYTES_PER_MS = 54.5e6;
const HOST_BYTES_PER_MS = 60e6;

/** How many experts that a pass lacks the host computes, and what it needs for that; undefined where no block's part can be cut out. */
export function hostShare(
  model: ModelSpec,
  slots: Pick<SlotPlan, 'mostTokens'>,
  compute: CpuCompute,
): HostSharePlan | undefined {
  if (compute === 'off') return undefined;
  const mostTokens = Math.min(slots.mostTokens, MOST_HOST_TOKENS);
  const workspaceBytes = hostWorkspaceBytes(model, mostTokens);
  if (workspaceBytes === 0) return undefined;
  return { rule: compute === 'only' ? 'all' : 'balanced', mostTokens, workspaceBytes };
}

const knownWorkspaces = new WeakMap<ModelSpec, Map<number, number>>();

/** What the largest part of a block takes; 0 where none can be cut out. */
function hostWorkspaceBytes(model: ModelSpec, tokens: number): number {
  const byTokens = knownWorkspaces.get(model) ?? new Map<number, number>();
  knownWorkspaces.set(model, byTokens);
  const before = byTokens.get(tokens);
  if (before !== undefined) return before;
  const workspace = { id: Number.MAX_SAFE_INTEGER - 1, sizeBytes: Number.MAX_SAFE_INTEGER };
  let workspaceBytes = 0;
  for (const { index } of kindsOf(model)) {
    const part = recordHostPart(model, index, tokens, { workspace });
    workspaceBytes = Math.max(workspaceBytes, part?.workspaceBytes ?? 0);
  }
  byTokens.set(tokens, workspaceBytes);
  return workspaceBytes;
}

/** What a device and its host begin with. */
export function usualRates({ bytes }: Pick<SlotPlan, 'bytes'>): ShareRates {
  return {
    bringMs: bytes / LINK_BYTES_PER_MS,
    computeMs: bytes / HOST_BYTES_PER_MS,
    deviceMs: 0.06,
    hostMs: 0.02,
  };
}

/** How much faster than by the link alone what a pass lacks is there, or computed. */
export function shareGain({ host }: SlotPlan, tokens: number): number {
  if (!host || tokens > host.mostTokens) return 1;
  return host.rule === 'all'
    ? HOST_BYTES_PER_MS / LINK_BYTES_PER_MS
    : (LINK_BYTES_PER_MS + HOST_BYTES_PER_MS) / LINK_BYTES_PER_MS;
}

/** Words of what a device asks of slots in DRAM, of the answers, and of what the host knows of these. */
export interface DramSlotWords {
  readonly asked: number;
  readonly found: number;
  readonly slotOf: number;
  readonly keyOf: number;
  readonly uses: number;
  readonly stamps: number;
  readonly readAs: number;
  readonly calls: number;
  readonly counts: number;
  readonly begins: number;
  readonly alike: number;
}

export function dramSlotWords(
  { keys }: Pick<SlotPlan, 'keys'>,
  { count }: Pick<DramSlotPlan, 'count'>,
  layers: readonly LayerExperts[],
): DramSlotWords {
  const most = (of: (layer: LayerExperts) => number) =>
    layers.reduce((all, layer) => Math.max(all, of(layer)), 0);
  const [experts, parts] = [most((layer) => layer.count), most((layer) => layer.parts.length)];
  return {
    asked: ASKED_HEAD_WORDS + ASKED_EACH_WORDS * experts,
    found: experts * (FOUND_HEAD_WORDS + 2 * parts),
    slotOf: keys,
    keyOf: count,
    uses: count,
    stamps: count,
    readAs: count,
    calls: 1,
    counts: 2,
    begins: keys * parts,
    alike: keys,
  };
}

/** Words of the tables that a device keeps of its slots. */
export interface SlotWords {
  /** What the device keeps beside its mailbox, and the choices that are left to it. */
  readonly mail: number;
  readonly here: number;
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
  slots: Pick<SlotPlan, 'count' | 'keys' | 'choices'>,
  layers: readonly LayerExperts[],
): SlotWords {
  const sum = (of: (layer: LayerExperts) => number) => layers.reduce((all, layer) => all + of(layer), 0);
  return {
    mail: MAIL_STATE_WORDS,
    here: MOST_HOST_TOKENS * slots.choices,
    slotOf: slots.keys,
    uses: slots.keys,
    keyOf: slots.count,
    stamps: slots.count,
    calls: 1,
    list: 1 + 2 * layers.reduce((most, { count }) => Math.max(most, count), 0),
    counts: 3 * layers.length,
    places: sum(({ count, parts }) => (1 + count) * 2 * parts.length),
  };
}

export function totalWords(words: SlotWords | DramSlotWords): number {
  return Object.values(words).reduce((all: number, one: number) => all + one, 0);
}
