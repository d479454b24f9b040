// Figures of a run beside the limits measured in it: as lines for people, and as JSON for programs.

import {
  CUTS,
  counted,
  formatBytes,
  formatRate,
  KV_TYPE_NAMES,
  type LaneSummary,
  type Plan,
  type RowCounts,
  type SlotCounts,
  type Tier,
} from '../../offload/index.js';
import { describePlacement } from '../engine/placement.js';
import { layerFigures } from './layer-figures.js';
import type { Limits } from './limits.js';
import type { Meter, Phase, PhaseFigures } from './meter.js';

/** One timed run over all prompts, tokenizing included. */
export interface Cycle {
  readonly seconds: number;
  readonly newTokens: number;
}

export interface BenchmarkFigures {
  readonly batchSize: number;
  /** From the start of the process until it could generate. */
  readonly readySeconds: number;
  readonly cycles: readonly Cycle[];
}

const PHASES: readonly Phase[] = ['prefill', 'mixed', 'decode', 'score'];

/**
 * The block that transformers-bloom-inference prints. Tokens and seconds are those of all timed cycles together;
 * warm-up cycles and what is between cycles are in none of the lines.
 */
export function performanceBlock({ batchSize, readySeconds, cycles }: BenchmarkFigures): string {
  const seconds = cycles.reduce((sum, cycle) => sum + cycle.seconds, 0);
  const tokens = cycles.reduce((sum, cycle) => sum + cycle.newTokens, 0);
  const perTokenMs = tokens > 0 ? (seconds * 1e3) / tokens : 0;
  return [
    '*** Performance stats:',
    `Throughput per token including tokenize: ${perTokenMs.toFixed(2)} msecs`,
    `Start to ready to generate: ${readySeconds.toFixed(3)} secs`,
    `Tokenize and generate ${tokens} (bs=${batchSize}) tokens: ${seconds.toFixed(3)} secs`,
    `Start to finish: ${(readySeconds + seconds).toFixed(3)} secs`,
    '',
  ].join('\n');
}

/** A line per hop and per phase of compute: bytes, rate, limit of the same run, stall. */
export function streamingBlock(meter: Meter, limits: Limits): string {
  return streamingLines(meter, limits)
    .map((line) => `${line}\n`)
    .join('');
}

/** A line for each hop and each phase. */
export function streamingLines(meter: Meter, limits: Limits): string[] {
  const { seconds } = totals(meter);
  const lines = meter
    .lanes()
    .filter(isHop)
    .map((lane) => hopLine(lane, limits, seconds));
  for (const { folder, bytes, busyMs } of meter.drives) {
    const busy = `busy ${percent(busyMs / 1e3, seconds)} of the time`;
    lines.push(`drive ${folder}: ${formatBytes(bytes)} at ${formatRate(rate(bytes, busyMs / 1e3))}, ${busy}`);
  }
  const experts = expertsLine(meter);
  if (experts) lines.push(experts);
  const rows = rowsLine(meter);
  if (rows) lines.push(rows);
  for (const phase of PHASES) {
    const figures = meter.phase(phase);
    if (figures) lines.push(...phaseLines(phase, figures, meter.storedAs, limits));
  }
  return lines;
}

/** Undefined where experts have no slots. */
function expertsLine({ experts, slotBytes, behind }: Meter): string | undefined {
  if (!experts) return undefined;
  const { hits, misses, computedByHost, inDram, read } = experts;
  const all = hits + misses;
  if (behind) {
    const onDrive = misses - inDram;
    return (
      `experts: of ${all} that were chosen ${percent(hits, all)} lay in slots of the device, ${percent(inDram, all)} in slots of DRAM, ` +
      `${percent(onDrive, all)} on the drive; ${formatBytes(misses * slotBytes)} went to the device, ` +
      `${formatBytes(read.bytes)} came from the drive at ${formatRate(rate(read.bytes, read.busyMs / 1e3))}`
    );
  }
  const came =
    read.bytes > 0
      ? `${formatBytes(read.bytes)} came from the drive at ${formatRate(rate(read.bytes, read.busyMs / 1e3))}`
      : `${formatBytes((misses - computedByHost) * slotBytes)} came from DRAM`;
  const beside =
    computedByHost > 0 ? `, the CPU computed with ${formatBytes(computedByHost * slotBytes)}` : '';
  return `experts: ${percent(hits, all)} of ${all} that were chosen lay in slots, ${came}${beside}`;
}

/** Undefined where no rows were left to the host. */
function rowsLine({ rows }: Meter): string | undefined {
  if (!rows || rows.passes === 0) return undefined;
  const { passes, travelledBytes, stayedBytes, share } = rows;
  const all = travelledBytes + stayedBytes;
  return (
    `rows: ${percent(stayedBytes, all)} of ${formatBytes(all)} were multiplied by the CPU where they rest, in ` +
    `${counted(passes, 'pass', 'passes')}; ${percent(share, 1)} travel at the end`
  );
}

/** What was streamed, in a sentence for the end of a run. */
export function streamingSentence(meter: Meter, plan: Plan): string {
  const drive = meter.lanes().find(({ lane }) => lane === 'nvme→dram');
  const { seconds, stallSeconds } = totals(meter);
  const passes = counted(meter.passes, 'pass', 'passes');
  const chosen = meter.experts?.read.bytes ?? 0;
  const ofExperts = chosen > 0 ? `read ${formatBytes(chosen)} of chosen experts from the drive` : undefined;
  const ofLayers =
    drive &&
    `read ${formatBytes(drive.bytes)} from the drive at ${formatRate(rate(drive.bytes, drive.busyMs / 1e3))}`;
  const read =
    [ofLayers, ofExperts].filter((part) => part !== undefined).join(' and ') || 'read nothing from the drive';
  return (
    `${describePlacement(plan)}; ${read} in ${passes}; ` +
    `compute waited for weights ${percent(stallSeconds, seconds)} of ${seconds.toFixed(1)} s`
  );
}

/** What was done, and how fast, for the end of a run. */
export function rateSentence(done: string, tokens: number, seconds: number): string {
  const perSecond = tokens / Math.max(seconds, 1e-3);
  return `${done}: ${counted(tokens, 'token')} in ${seconds.toFixed(seconds < 100 ? 2 : 0)} s, ${perSecond.toFixed(1)} tokens/s`;
}

/** The model of a run, as its report names it. */
interface ReportedModel {
  readonly name: string;
  readonly folder: string;
  readonly architecture: string;
  readonly blocks: number;
  readonly weight_bytes: number;
}

export interface ReportContext {
  readonly command: string;
  readonly model: ReportedModel;
  readonly plan: Plan;
  readonly meter: Meter;
  readonly limits: Limits;
  readonly notes: readonly string[];
  readonly readySeconds: number;
}

/** The same figures as plain values; names end in their unit. */
export type ReportFigures = ReturnType<typeof reportFigures>;

/** @param extra the command's own */
export function reportFigures(context: ReportContext, extra: Readonly<Record<string, unknown>>) {
  const { plan, meter, limits } = context;
  const { seconds, stallSeconds } = totals(meter);
  return {
    command: context.command,
    model: { ...context.model, stored_as: meter.storedAs },
    ready_seconds: context.readySeconds,
    ...extra,
    plan: planJson(plan),
    hops: meter
      .lanes()
      .filter(isHop)
      .map((lane) => hopJson(lane, limits, seconds)),
    drives: meter.drives.map(({ folder, bytes, busyMs }) => ({
      folder,
      bytes,
      busy_seconds: busyMs / 1e3,
      bytes_per_second: rate(bytes, busyMs / 1e3),
    })),
    compute: Object.fromEntries(
      PHASES.flatMap((phase) => {
        const figures = meter.phase(phase);
        return figures ? [[phase, phaseJson(figures, limits)]] : [];
      }),
    ),
    experts: meter.experts ? expertsJson(meter, meter.experts) : null,
    rows: meter.rows ? rowsJson(meter.rows) : null,
    stall_seconds: stallSeconds,
    stall_share: share(stallSeconds, seconds),
    layers: layerFigures(plan, meter),
    notes: context.notes,
  };
}

export function reportJson(figures: ReportFigures): string {
  return `${JSON.stringify(figures, undefined, 2)}\n`;
}

function expertsJson({ slotBytes, behind }: Meter, counts: SlotCounts) {
  const { hits, misses, computedByHost, inDram, read } = counts;
  const seconds = read.busyMs / 1e3;
  return {
    hits,
    misses,
    hit_share: share(hits, hits + misses),
    computed_by_cpu: computedByHost,
    dram_hits: behind ? inDram : null,
    dram_hit_share: behind ? share(inDram, hits + misses) : null,
    drive_share: behind ? share(misses - inDram, hits + misses) : null,
    brought_bytes: (!behind && read.bytes) || (misses - computedByHost) * slotBytes,
    read_bytes: read.bytes,
    read_seconds: seconds,
    read_bytes_per_second: rate(read.bytes, seconds),
  };
}

function rowsJson({ passes, travelledBytes, stayedBytes, share }: RowCounts) {
  return { passes, travelled_bytes: travelledBytes, stayed_bytes: stayedBytes, travelling_share: share };
}

function isHop({ lane }: LaneSummary): boolean {
  return lane !== 'compute';
}

/** The drive's limit holds for whole layers; rows of the embedding are tiny reads. */
function limitOf({ lane }: LaneSummary, limits: Limits): number | undefined {
  return lane === 'nvme→dram' ? limits.driveBytesPerSecond : undefined;
}

/** A hop stalls while nothing is on its way: every buffer is full, or nothing is left to fetch. */
function hopLine(lane: LaneSummary, limits: Limits, seconds: number): string {
  const achieved = rate(lane.bytes, lane.busyMs / 1e3);
  const name = lane.lane === 'rows' ? 'embedding rows' : lane.lane;
  return `${name} (${lane.owner}): ${formatBytes(lane.bytes)} at ${formatRate(achieved)}${ofLimit(achieved, limitOf(lane, limits))}, stalled ${percent(stallOf(lane, seconds), seconds)} of the time`;
}

function stallOf(lane: LaneSummary, seconds: number): number {
  return Math.max(0, seconds - lane.busyMs / 1e3);
}

function phaseLines(phase: Phase, figures: PhaseFigures, storedAs: string, limits: Limits): string[] {
  const { tokens, passes, seconds, computeSeconds, stallSeconds } = figures;
  const weights = rate(figures.weightBytes, computeSeconds);
  const flops = rate(figures.blockFlops, computeSeconds);
  return [
    `${phase}: ${counted(tokens, 'token')} in ${counted(passes, 'pass', 'passes')}, ${seconds.toFixed(3)} s, ` +
      `of which compute was busy ${percent(computeSeconds, seconds)} and waited for weights ${percent(stallSeconds, seconds)}`,
    `${phase} compute: ${formatBytes(figures.weightBytes)} of weights (${storedAs}) at ${formatRate(weights)}` +
      `${ofLimit(weights, limits.memoryBytesPerSecond)}, ${formatFlops(flops, limits.flopsPerSecond)}`,
  ];
}

function formatFlops(achieved: number, limit: number | undefined): string {
  const giga = (flops: number) => `${(flops / 1e9).toFixed(1)} GFLOP/s`;
  return limit ? `${giga(achieved)} (${percent(achieved, limit)} of ${giga(limit)})` : giga(achieved);
}

function ofLimit(achieved: number, limit: number | undefined): string {
  if (!limit) return '';
  if (shareOfLimit(achieved, limit) === null)
    return ` (more than the ${formatRate(limit)} that were measured in this run: from caches, or others were busy then)`;
  return ` (${percent(Math.min(achieved, limit), limit)} of ${formatRate(limit)}, the limit in this run)`;
}

/** How much two measurements of one rate differ. */
const NOISE = 0.05;

/** A rate above the limit by more than noise was not limited by it, since small weights come from caches: it gets no share. */
function shareOfLimit(achieved: number, limit: number | undefined): number | null {
  if (!limit || achieved > (1 + NOISE) * limit) return null;
  return Math.min(1, achieved / limit);
}

function hopJson(lane: LaneSummary, limits: Limits, seconds: number) {
  const achieved = rate(lane.bytes, lane.busyMs / 1e3);
  const limit = limitOf(lane, limits);
  return {
    hop: lane.lane,
    owner: lane.owner,
    bytes: lane.bytes,
    reads: lane.spans,
    busy_seconds: lane.busyMs / 1e3,
    stall_seconds: stallOf(lane, seconds),
    bytes_per_second: achieved,
    limit_bytes_per_second: limit ?? null,
    of_limit: shareOfLimit(achieved, limit),
  };
}

function phaseJson(figures: PhaseFigures, limits: Limits) {
  const achieved = rate(figures.weightBytes, figures.computeSeconds);
  const flops = rate(figures.blockFlops, figures.computeSeconds);
  const limit = limits.memoryBytesPerSecond;
  return {
    passes: figures.passes,
    tokens: figures.tokens,
    seconds: figures.seconds,
    busy_seconds: figures.computeSeconds,
    stall_seconds: figures.stallSeconds,
    weight_bytes: figures.weightBytes,
    weight_bytes_per_second: achieved,
    limit_bytes_per_second: limit ?? null,
    of_limit: shareOfLimit(achieved, limit),
    block_flops_per_second: flops,
    limit_flops_per_second: limits.flopsPerSecond ?? null,
    of_flops_limit: shareOfLimit(flops, limits.flopsPerSecond),
  };
}

function planJson(plan: Plan) {
  const count = (wanted: Tier) => plan.layers.filter(({ tier }) => tier === wanted).length;
  return {
    placement: describePlacement(plan),
    layers: plan.layers.length,
    layers_on_device: count('gpu'),
    layers_in_dram: count('dram'),
    layers_on_drive: count('nvme'),
    expert_slots: plan.slots?.count ?? null,
    expert_slot_bytes: plan.slots?.bytes ?? null,
    dram_expert_slots: plan.slots?.behind?.count ?? null,
    travelling_rows_share: plan.rows ? plan.rows.share / CUTS : null,
    host_buffers: plan.hostBuffers.count,
    host_buffer_bytes: plan.hostBuffers.sizeBytes,
    devices: plan.deviceCount,
    transfer: { kind: plan.transfer.kind, by: plan.transfer.by, reason: plan.transfer.reason },
    kv_dtype: KV_TYPE_NAMES[plan.kvType],
    micro_batch_tokens: plan.microBatchTokens,
    micro_batch_sequences: plan.microBatchSequences,
    dram_budget_bytes: plan.dramBudgetBytes,
    memory: plan.terms.map(({ tier, name, bytes, reason }) => ({ tier, name, bytes, reason })),
  };
}

function totals(meter: Meter): { seconds: number; stallSeconds: number } {
  let [seconds, stallSeconds] = [0, 0];
  for (const phase of PHASES) {
    seconds += meter.phase(phase)?.seconds ?? 0;
    stallSeconds += meter.phase(phase)?.stallSeconds ?? 0;
  }
  return { seconds, stallSeconds };
}

function rate(amount: number, seconds: number): number {
  return seconds > 0 ? amount / seconds : 0;
}

function share(part: number, whole: number): number {
  return whole > 0 ? part / whole : 0;
}

function percent(part: number, whole: number): string {
  return `${(share(part, whole) * 100).toFixed(0)} %`;
}
