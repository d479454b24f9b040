// Takes a layer apart into its experts and the rest: an expert is the smallest thing that comes to a device by itself.

import { present } from '../errors.js';
import { DEVICE_ALIGNMENT_BYTES } from '../port/backend.js';
import { PART_NAMES, type PartName } from '../port/formats.js';
import { MOST_EXPERTS } from '../port/mixture-ops.js';
import { roundUp } from '../units.js';
import { areAlike } from './alike.js';
import {
  type DeviceLayout,
  deviceLayout,
  type LayerLayout,
  type LayerSpec,
  type MatrixSpec,
  type TensorSpec,
  tensorsOf,
} from './layout.js';

/** What an operation says of a place in a slot is one word. */
const MOST_SLOT_BYTES = 2 ** 31;

/** A stored tensor of an expert, at the same place of every slot. */
export interface SlotPart {
  /** The expert's matrix, with `*` in place of its number. */
  readonly matrix: string;
  readonly name: PartName;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

export interface LayerExperts {
  readonly count: number;
  /** All but the experts, on a device. */
  readonly base: DeviceLayout;
  readonly parts: readonly SlotPart[];
  /** What all parts of one expert take, each aligned. */
  readonly slotBytes: number;
  /** By expert, then by part: what is stored, and where it begins in the host layout. */
  readonly specs: readonly (readonly TensorSpec[])[];
  readonly hostOffsets: readonly (readonly number[])[];
}

/** Which expert a matrix belongs to, and its name without the number; undefined where every token uses it. */
export function expertOf(key: string): { readonly expert: number; readonly matrix: string } | undefined {
  const found = /^(.*\bexperts\.)(\d+)(\..*)$/.exec(key);
  if (!found) return undefined;
  const [, before = '', number = '', after = ''] = found;
  return { expert: Number(number), matrix: `${before}*${after}` };
}

/**
 * Undefined where a layer has no experts that slots can hold: none at all, such as share what they are stored as with the rest,
 * or such as are not stored alike, so that the same bytes of a slot would mean one thing for one and another for the next.
 */
export function expertsOf(layout: LayerLayout): LayerExperts | undefined {
  const before = known.get(layout);
  if (before !== undefined) return before ?? undefined;
  const experts = takeApart(layout);
  known.set(layout, experts ?? null);
  return experts;
}

const known = new WeakMap<LayerLayout, LayerExperts | null>();

function takeApart({ layer, host }: LayerLayout): LayerExperts | undefined {
  const byExpert = matricesByExpert(layer);
  const [first] = byExpert;
  if (!first || byExpert.length > MOST_EXPERTS) return undefined;
  const { parts, slotBytes } = slotOf(first);
  if (slotBytes >= MOST_SLOT_BYTES) return undefined;
  const at = new Map(host.placements.map(({ weight, offsetBytes }) => [weight, offsetBytes]));
  const hostOffsets: number[][] = [];
  const allSpecs: TensorSpec[][] = [];
  const inSlots = new Set<TensorSpec>();
  for (const matrices of byExpert) {
    const own: MatrixSpec[] = [];
    for (const [name, model] of first) {
      const matrix = matrices.get(name);
      if (!matrix || matrix.parts.nestedScales !== undefined || !areSame(matrix, model)) return undefined;
      own.push(matrix);
    }
    if (own.length !== matrices.size) return undefined;
    const specs = own.flatMap(tensorsOf);
    for (const spec of specs) inSlots.add(spec);
    allSpecs.push(specs);
    hostOffsets.push(specs.map((spec) => present(at.get(spec), spec.key)));
  }
  // What experts share comes with each of them; what others share with them would be nowhere else.
  const others = layer.matrices.filter(({ key }) => !expertOf(key)).flatMap(tensorsOf);
  if (others.some((spec) => inSlots.has(spec))) return undefined;
  const rest = host.placements.filter(({ weight }) => !inSlots.has(weight));
  const base = deviceLayout({ placements: rest });
  return { count: byExpert.length, base, parts, slotBytes, specs: allSpecs, hostOffsets };
}

/** Whether slots hold one as they hold the other. */
function areSame(one: MatrixSpec, other: MatrixSpec): boolean {
  const groups = [one, other].filter(({ parts }) => parts.groups !== undefined).length;
  return one.format === other.format && groups !== 1 && areAlike(one, other);
}

/** By expert, its matrices by their names without its number; empty where numbers are missing. */
function matricesByExpert({ matrices }: LayerSpec): ReadonlyMap<string, MatrixSpec>[] {
  const found = new Map<number, Map<string, MatrixSpec>>();
  for (const matrix of matrices) {
    const of = expertOf(matrix.key);
    if (!of) continue;
    const own = found.get(of.expert) ?? new Map<string, MatrixSpec>();
    own.set(of.matrix, matrix);
    found.set(of.expert, own);
  }
  const all = Array.from({ length: found.size }, (_, expert) => found.get(expert));
  return all.every((own) => own !== undefined) ? all : [];
}

function slotOf(matrices: ReadonlyMap<string, MatrixSpec>): { parts: SlotPart[]; slotBytes: number } {
  const parts: SlotPart[] = [];
  let used = 0;
  for (const [matrix, spec] of matrices) {
    for (const name of PART_NAMES) {
      const sizeBytes = spec.parts[name]?.extent.sizeBytes;
      if (sizeBytes === undefined) continue;
      parts.push({ matrix, name, offsetBytes: used, sizeBytes });
      used = roundUp(used + sizeBytes, DEVICE_ALIGNMENT_BYTES);
    }
  }
  return { parts, slotBytes: used };
}

/**
 * The words of `places` of the operation `bring_experts`: [1 + experts, 2 · parts].
 * @param begins by expert, then by part; default where they begin in the host layout
 */
export function placesOf(
  { parts, hostOffsets }: Pick<LayerExperts, 'parts' | 'hostOffsets'>,
  begins: readonly (readonly number[])[] = hostOffsets,
): Int32Array {
  const rows = [
    parts.flatMap(({ offsetBytes, sizeBytes }) => [offsetBytes, sizeBytes]),
    ...begins.map((offsets) => offsets.flatMap((offset) => [offset | 0, Math.floor(offset / 2 ** 32)])),
  ];
  return Int32Array.from(rows.flat());
}
