// Rows that the host multiplies where they rest: of which layers, in which passes, how many to begin with, and what it takes.

import { threadsBeside } from '../backends/processors.js';
import { CUTS, type CutLayer, cutLayer } from '../model/cut-layer.js';
import { cuttableOfBlock, cuttableOfPiece } from '../model/cuttable.js';
import type { LayerLayout } from '../model/layout.js';
import type { ModelSpec } from '../model/model.js';
import { DEVICE_ALIGNMENT_BYTES } from '../port/backend.js';
import { DTYPE_BYTES } from '../port/dtype.js';
import { MAIL_STATE_WORDS, MAIL_WORDS } from '../port/host-ops.js';
import { KiB } from '../units.js';
import { allocatedBytes } from './device-costs.js';
import { isAloneWithin } from './pass-sizes.js';
import type { CpuCompute, Plan, PlannedLayer, PlanTerm, RowsPlan } from './plan.js';

/** With more tokens a processor is bound by its arithmetic, and the link has long won. */
const MOST_TOKENS = 8;
/** A question costs some 20 µs, in which a processor reads two megabytes. */
const LEAST_MATRIX_BYTES = 1024 * KiB;
const LEAST_THREADS = 2;

/** What a processor reads of DRAM while a link is busy, measured on 16 cores: 88 GB/s beside 54. */
const THREAD_BYTES_PER_SECOND = 6.5e9;
const MOST_HOST_BYTES_PER_SECOND = 88e9;
const LINK_BYTES_PER_SECOND = 54e9;

/** What it depends on whether the host multiplies, and with how many rows. */
export interface HostRowOptions {
  readonly computesInPlace: boolean;
  readonly deviceCount: number;
  readonly cuda?: boolean;
  /** Default `auto`. */
  readonly cpuCompute?: CpuCompute;
  /** Threads that the processor has. */
  readonly hostThreads?: number;
  /** Rows of every matrix that travel, in CUTS-ths, whatever is faster; the host multiplies with the others. */
  readonly hostRowShare?: number;
}

/** By layer, the matrices that may be cut; undefined where the host multiplies with none. */
export interface CuttableLayers {
  readonly keys: readonly (readonly string[])[];
  readonly rows: RowsPlan;
}

/** @param layers blocks, then the head's pieces */
export function cuttableLayers(
  model: ModelSpec,
  layers: readonly Pick<PlannedLayer, 'layout' | 'kind' | 'index'>[],
  options: HostRowOptions,
): CuttableLayers | undefined {
  const share = firstShare(options);
  if (share === undefined || share === CUTS) return undefined;
  const least = options.hostRowShare === undefined ? LEAST_MATRIX_BYTES : 0;
  const keys = layers.map(({ layout, kind, index }) => {
    const { layer } = layout;
    const all = kind === 'block' ? cuttableOfBlock(model, index) : cuttableOfPiece(layer);
    return all.filter((key) => {
      const codes = layer.matrices.find((matrix) => matrix.key === key)?.parts.codes;
      return (codes?.extent.sizeBytes ?? 0) >= Math.max(1, least);
    });
  });
  if (keys.every((some) => some.length === 0)) return undefined;
  return {
    keys,
    rows: rowsPlan(layers, keys, {
      share,
      isFixed: options.hostRowShare !== undefined || options.cpuCompute === 'only',
    }),
  };
}

/** Rows that travel, in CUTS-ths; undefined where nothing is to be computed where it rests. */
function firstShare(options: HostRowOptions): number | undefined {
  const { computesInPlace, deviceCount, cuda, cpuCompute = 'auto', hostRowShare } = options;
  // Several devices have several links, and each would have the host read the same rows for itself.
  if (computesInPlace || deviceCount > 1 || cpuCompute === 'off') return undefined;
  if (hostRowShare !== undefined) return hostRowShare;
  if (!cuda) return undefined;
  if (cpuCompute === 'only') return 0;
  if (freeThreads(options) < LEAST_THREADS) return undefined;
  const host = hostBytesPerSecond(options);
  return Math.round((CUTS * LINK_BYTES_PER_SECOND) / (LINK_BYTES_PER_SECOND + host));
}

function freeThreads({ hostThreads = 1 }: HostRowOptions): number {
  return threadsBeside(hostThreads);
}

/** What the host's threads are taken to multiply with, beside a link that is busy, before anything is measured. */
export function hostBytesPerSecond(options: HostRowOptions): number {
  return Math.min(MOST_HOST_BYTES_PER_SECOND, Math.max(1, freeThreads(options)) * THREAD_BYTES_PER_SECOND);
}

function rowsPlan(
  layers: readonly Pick<PlannedLayer, 'layout'>[],
  keys: readonly (readonly string[])[],
  { share, isFixed }: Pick<RowsPlan, 'share' | 'isFixed'>,
): RowsPlan {
  let [inputs, results, rows] = [0, 0, 0];
  for (const [index, { layout }] of layers.entries()) {
    let sum = 0;
    for (const key of keys[index] ?? []) {
      const [N = 0, K = 0] = layout.layer.matrices.find((matrix) => matrix.key === key)?.shape ?? [];
      sum += N;
      inputs = Math.max(inputs, K);
      rows = Math.max(rows, N);
    }
    results = Math.max(results, sum);
  }
  const floats = MOST_TOKENS * DTYPE_BYTES.f32;
  return {
    share,
    isFixed,
    mostTokens: MOST_TOKENS,
    inputBytes: floats * inputs,
    resultBytes: floats * results,
    deviceBytes: DEVICE_ALIGNMENT_BYTES + floats * rows,
  };
}

/** What it takes of host and device beside the layers. */
export function hostRowsTerms(cuttable: CuttableLayers | undefined, options: HostRowOptions): PlanTerm[] {
  if (!cuttable) return [];
  const { inputBytes, resultBytes, deviceBytes, mostTokens } = cuttable.rows;
  const name = HOST_ROWS_TERM;
  const reason = `inputs and results of rows that the CPU multiplies where they rest, for up to ${mostTokens} tokens, and a mailbox`;
  const mailBytes = DTYPE_BYTES.i32 * (MAIL_WORDS + MAIL_STATE_WORDS);
  return [
    { tier: 'dram', name, bytes: inputBytes + resultBytes + mailBytes, reason },
    { tier: 'gpu', name, bytes: allocatedBytes(options, deviceBytes), reason },
  ];
}

export const HOST_ROWS_TERM = 'host rows';

/** Whether a pass of micro-batches of so many tokens leaves rows to the host. */
export function leavesRows(rows: RowsPlan | undefined, microBatchTokens: readonly number[]): boolean {
  return isAloneWithin(rows, microBatchTokens);
}

const known = new WeakMap<LayerLayout, Map<string, CutLayer>>();

/** Made once for each share. */
export function cutOf(
  { layout, cuttable = [] }: Pick<PlannedLayer, 'layout' | 'cuttable'>,
  share: number,
): CutLayer {
  const cuts = known.get(layout) ?? new Map<string, CutLayer>();
  known.set(layout, cuts);
  const name = [share, ...cuttable].join(' ');
  const cut = cuts.get(name) ?? cutLayer(layout, cuttable, share);
  cuts.set(name, cut);
  return cut;
}

/** What link and host have to move in a pass, at a share. */
export interface RowBytes {
  readonly travelling: number;
  readonly staying: number;
}

/** All layers that stream together; those that are not cut travel whole whatever the share. */
export function rowBytes({ layers }: Pick<Plan, 'layers'>, share: number): RowBytes {
  let [travelling, staying] = [0, 0];
  for (const layer of layers) {
    if (layer.tier === 'gpu' || layer.experts) continue;
    if (!layer.cuttable) {
      travelling += layer.layout.device.sizeBytes;
      continue;
    }
    const cut = cutOf(layer, share);
    travelling += cut.travellingBytes;
    staying += cut.stayingBytes;
  }
  return { travelling, staying };
}

/** Link and host at work together. */
export interface RowRates {
  readonly linkBytesPerSecond: number;
  readonly hostBytesPerSecond: number;
}

/** The share with which both end together, as nearly as cuts allow, and the milliseconds of a pass with it. */
export function bestShare(
  bytesAt: (share: number) => RowBytes,
  { linkBytesPerSecond, hostBytesPerSecond }: RowRates,
): { readonly share: number; readonly ms: number; readonly wholeMs: number } {
  const msAt = (share: number) => {
    const { travelling, staying } = bytesAt(share);
    return 1e3 * Math.max(travelling / linkBytesPerSecond, staying / hostBytesPerSecond);
  };
  let best = { share: CUTS, ms: msAt(CUTS) };
  const wholeMs = best.ms;
  // Where next to nothing travels, nobody learns what the link yields.
  for (let share = 1; share < CUTS; share++) {
    const ms = msAt(share);
    if (ms < best.ms) best = { share, ms };
  }
  return { ...best, wholeMs };
}
