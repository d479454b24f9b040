// A plan's report as tables for people and as JSON for programs.

import {
  type Bound,
  CUTS,
  counted,
  formatBytes,
  formatRate,
  type HardwareProfile,
  KV_TYPE_NAMES,
  type ModelSpec,
  type Plan,
  type PlannedLayer,
  type PlanTerm,
  type PredictedPass,
  renameKeys,
  type Tier,
  toSnake,
} from '../../offload/index.js';
import { LARGEST_BATCH } from '../engine/largest-batch.js';
import { describePlacement } from '../engine/placement.js';
import type { ComparedPlan, PlanReport } from './plan-report.js';
import { storedAs, storedLayers } from './stored-weights.js';
import { textTable } from './text-table.js';

const BOUND_BY: Readonly<Record<Bound, string>> = {
  drive: 'the drive',
  link: 'the link to the device',
  memory: 'reading weights from memory',
  arithmetic: 'arithmetic',
  turns: 'taking turns: more buffers would let hops and compute overlap',
};

const LAYERS_PER_LINE = 64;
const TIERS: readonly Tier[] = ['gpu', 'dram', 'nvme'];
const TIER_MARKS: Readonly<Record<Tier, string>> = { gpu: '@', dram: '#', nvme: '.' };

export interface PlannedModel {
  readonly name: string;
  readonly architecture: string;
  readonly parameters: number;
  readonly weightBytes: number;
}

/** The report as tables for people. */
export function planText(model: PlannedModel, report: PlanReport): string {
  const { plan, request } = report;
  return [
    `${model.name}: ${model.architecture}, ${model.parameters.toLocaleString('en-US')} parameters, ` +
      `${formatBytes(model.weightBytes)} of weights\n${machineText(request.machine)}\n`,
    storedTable(request.model),
    `${sentence(describePlacement(plan))}\n${layerMap(plan)}`,
    tierTable(plan),
    memoryTable(plan),
    stepTable(report),
    largestText(report),
    ...(report.compared.length > 0 ? [comparedTable(model, report)] : []),
  ].join('\n');
}

function storedTable(model: ModelSpec): string {
  const rows = storedLayers(model).map(({ kind, count, formats, bytesEach, bitsPerWeight }) => [
    kind,
    String(count),
    formats.join('; '),
    bitsPerWeight.toFixed(2),
    formatBytes(bytesEach),
    formatBytes(count * bytesEach),
  ]);
  const head = ['layers', 'count', 'stored as', 'bits a weight', 'each', 'all'];
  return textTable([head, ...rows], ['left', 'right', 'left', 'right', 'right', 'right']);
}

/** What a decode step is limited by where weights are stored otherwise. */
function comparedTable(
  model: PlannedModel,
  { request, plan, predicted, compared, batchSize }: PlanReport,
): string {
  const isGpu = request.machine.devices.kind === 'gpu';
  const own = {
    name: `${storedAs(request.model.blocks)}, as now`,
    weightBytes: model.weightBytes,
    plan,
    decode: predicted.decode,
  };
  const row = ({ name, weightBytes, plan: other, decode }: ComparedPlan) => [
    name,
    formatBytes(weightBytes),
    ...(other
      ? [...(isGpu ? [tierBytes(other, 'gpu')] : []), tierBytes(other, 'dram'), tierBytes(other, 'nvme')].map(
          formatBytes,
        )
      : [...(isGpu ? [''] : []), 'does not fit', '']),
    ...(decode
      ? [
          formatMs(decode.driveMs),
          ...(isGpu ? [formatMs(decode.linkMs)] : []),
          formatMs(decode.computeMs),
          formatMs(decode.totalMs),
        ]
      : ['', ...(isGpu ? [''] : []), '', '']),
  ];
  const onDevice = isGpu ? ['on the device'] : [];
  const link = isGpu ? ['link'] : [];
  const head = [
    'weights',
    'bytes',
    ...onDevice,
    'in DRAM',
    'on the drive',
    'drive',
    ...link,
    'compute',
    'a step',
  ];
  return (
    `What other weights would change for batch ${batchSize}: where they rest, and what a decode step takes of each ` +
    `(pack, or --dtype, makes them):\n` +
    textTable(
      [head, ...[own, ...compared].map(row)],
      head.map((name) => (name === 'weights' ? 'left' : 'right')),
    )
  );
}

function machineText({ name, dramBytes, drive, devices }: HardwareProfile): string {
  const each = drive?.each?.map(formatRate).join(' + ');
  const drives = each === undefined ? 'drive' : `drives ${each}, together`;
  const rate = drive ? `${drives} ${formatRate(drive.bytesPerSecond)}` : "the drive's rate is not known";
  const link =
    devices.kind === 'gpu' && devices.linkBytesPerSecond !== null
      ? `, ${devices.count} × ${formatBytes(devices.memoryBytes ?? 0)} behind ${formatRate(devices.linkBytesPerSecond)}`
      : '';
  const peers =
    devices.count > 1 && devices.peerBytesPerSecond !== null
      ? `, ${formatRate(devices.peerBytesPerSecond)} between them`
      : '';
  return `on ${name}: ${formatBytes(dramBytes)} of memory, ${rate}${link}${peers}`;
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

/** A character per layer, so that a spread is seen at a glance. */
function layerMap({ layers }: Plan): string {
  const marks = (kind: PlannedLayer['kind']) =>
    layers.filter((layer) => layer.kind === kind).map(({ tier }) => TIER_MARKS[tier]);
  const lines = (kind: PlannedLayer['kind'], name: string) => {
    const all = marks(kind);
    const rows: string[] = [];
    for (let first = 0; first < all.length; first += LAYERS_PER_LINE) {
      rows.push(
        `  ${name} ${String(first).padStart(3)}  ${all.slice(first, first + LAYERS_PER_LINE).join('')}\n`,
      );
    }
    return rows.join('');
  };
  const onDevice = layers.some(({ tier }) => tier === 'gpu') ? `${TIER_MARKS.gpu} on the device, ` : '';
  const legend = `${onDevice}${TIER_MARKS.dram} in DRAM, ${TIER_MARKS.nvme} on the drive`;
  return `${lines('block', 'block')}${lines('head', 'head ')}  ${legend}\n`;
}

function tierTable(plan: Plan): string {
  const rows = TIERS.filter((tier) => tier !== 'gpu' || tierBytes(plan, tier) > 0).map((tier) => {
    const bytes = tierBytes(plan, tier);
    return [tier, String(plan.layers.filter((layer) => layer.tier === tier).length), formatBytes(bytes)];
  });
  return textTable([['tier', 'layers', 'weights'], ...rows], ['left', 'right', 'right']);
}

function tierBytes({ layers }: Plan, tier: PlannedLayer['tier']): number {
  return layers.reduce((sum, layer) => sum + (layer.tier === tier ? layer.layout.host.sizeBytes : 0), 0);
}

function memoryTable(plan: Plan): string {
  const rows = plan.terms.map(({ tier, name, bytes, reason }) => [tier, name, formatBytes(bytes), reason]);
  const all = (wanted: PlanTerm['tier'], budget: number | undefined) => {
    const terms = plan.terms.filter(({ tier }) => tier === wanted);
    const total = terms.reduce((sum, { bytes }) => sum + bytes, 0);
    const of = budget === undefined ? '' : `of a budget of ${formatBytes(budget)}`;
    return terms.length > 0 ? [[wanted, 'all', formatBytes(total), of]] : [];
  };
  return textTable(
    [
      ['memory', 'for', 'bytes', 'why'],
      ...rows,
      ...all('gpu', plan.deviceBudgetBytes),
      ...all('dram', plan.dramBudgetBytes),
    ],
    ['left', 'left', 'right', 'left'],
  );
}

function stepTable({ request, batchSize, autoBatchRefusal, plan, predicted, loadMs }: PlanReport): string {
  const { promptTokens, machine } = request;
  const header =
    `Batch ${batchSize}, prompts of ${counted(promptTokens, 'token')}; micro-batches of at most ${counted(plan.microBatchTokens, 'token')} ` +
    `and ${counted(plan.microBatchSequences, 'sequence')}.\n` +
    (autoBatchRefusal === undefined ? '' : `With one more, ${autoBatchRefusal}.\n`);
  if (!predicted.decode || !predicted.prefill) {
    return (
      `${header}Times cannot be predicted: layers stream, and the rate of the drive is not known. ` +
      'Measure it with doctor --path FOLDER --save machine.json, then give --machine machine.json.\n'
    );
  }
  const row = (name: string, pass: PredictedPass) => [
    name,
    String(pass.tokens),
    formatMs(pass.totalMs),
    formatRateOfTokens(pass),
    formatMs(pass.driveMs),
    ...(machine.devices.kind === 'gpu' ? [formatMs(pass.linkMs)] : []),
    formatMs(pass.computeMs),
    BOUND_BY[pass.bound],
  ];
  const link = machine.devices.kind === 'gpu' ? ['link'] : [];
  const head = ['predicted', 'tokens', 'time', 'tokens/s', 'drive', ...link, 'compute', 'bound by'];
  const align = head.map((name) => (name === 'predicted' || name === 'bound by' ? 'left' : 'right'));
  const table = textTable(
    [head, row('prefill', predicted.prefill), row('decode step', predicted.decode)],
    align,
  );
  const load =
    loadMs !== undefined && loadMs > 0
      ? `The first pass also loads what rests in DRAM or on the device: ${formatMs(loadMs)}.\n`
      : '';
  return `${header}${table}${load}`;
}

function largestText({ largestBatch: { batchSize, decode, plan, refusal } }: PlanReport): string {
  const size = batchSize === LARGEST_BATCH ? `${batchSize} or more` : String(batchSize);
  const step = decode
    ? `: ${formatMs(decode.totalMs)} a decode step, ${formatRateOfTokens(decode)} tokens/s, bound by ${BOUND_BY[decode.bound]}`
    : '';
  const why = refusal === undefined ? '' : `One more does not fit: ${refusal}.\n`;
  return `Largest batch: ${size}${step} (${describePlacement(plan)}).\n${why}`;
}

function perSecond({ tokens, totalMs }: PredictedPass): number {
  return (tokens / totalMs) * 1e3;
}

/** Three digits: batch 1 of a huge model makes thousandths of a token per second. */
function formatRateOfTokens(pass: PredictedPass): string {
  const rate = perSecond(pass);
  return rate >= 100 ? rate.toFixed(0) : rate.toPrecision(3);
}

function formatMs(ms: number): string {
  if (ms >= 1e4) return `${(ms / 1e3).toFixed(1)} s`;
  return ms >= 100 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

/**
 * Names end in their unit.
 * @param more what else is to stand in it, by names in camel case
 */
export function planJson(model: PlannedModel, report: PlanReport, more: object = {}): string {
  const { plan, request, batchSize, autoBatchRefusal, predicted, loadMs, largestBatch, compared } = report;
  const { machine, promptTokens, newTokens } = request;
  const json = {
    model,
    machine,
    workload: { batchSize, autoBatchRefusal: autoBatchRefusal ?? null, promptTokens, newTokens },
    storedWeights: storedLayers(request.model),
    placement: describePlacement(plan),
    layers: plan.layers.map(({ layout, tier, kind, index }) => ({
      name: layout.layer.name,
      kind,
      index,
      tier,
      bytes: layout.host.sizeBytes,
    })),
    tiers: tiersJson(plan),
    hostBuffers: { count: plan.hostBuffers.count, bytesEach: plan.hostBuffers.sizeBytes },
    devices: plan.deviceCount,
    pipeline: plan.pipeline ?? null,
    transfer: { kind: plan.transfer.kind, by: plan.transfer.by, reason: plan.transfer.reason },
    deviceBuffers: { count: plan.deviceBuffers.count, bytesEach: plan.deviceBuffers.sizeBytes },
    expertSlots: plan.slots ?? null,
    rows: plan.rows ? { travellingShare: plan.rows.share / CUTS, mostTokens: plan.rows.mostTokens } : null,
    memory: plan.terms,
    dramBudgetBytes: plan.dramBudgetBytes,
    deviceBudgetBytes: plan.deviceBudgetBytes ?? null,
    microBatchTokens: plan.microBatchTokens,
    microBatchSequences: plan.microBatchSequences,
    passTokens: plan.passTokens,
    keyValues: {
      tier: plan.kvBuffers.count > 0 || machine.devices.kind === 'cpu' ? 'dram' : 'gpu',
      dtype: KV_TYPE_NAMES[plan.kvType],
      pages: plan.kvPages,
      horizons: plan.horizons,
      buffers: plan.kvBuffers,
    },
    predicted: {
      prefill: passJson(predicted.prefill),
      decodeStep: passJson(predicted.decode),
      loadMs: loadMs ?? null,
    },
    largestBatch: {
      batchSize: largestBatch.batchSize,
      atSearchLimit: largestBatch.batchSize === LARGEST_BATCH,
      refusal: largestBatch.refusal ?? null,
      placement: describePlacement(largestBatch.plan),
      decodeStep: passJson(largestBatch.decode),
    },
    otherWeights: compared.map(({ name, weightBytes, plan: other, decode }) => ({
      name,
      weightBytes,
      placement: other ? describePlacement(other) : null,
      tiers: other ? tiersJson(other) : null,
      decodeStep: passJson(decode),
    })),
    ...more,
  };
  return `${JSON.stringify(renameKeys(json, toSnake), undefined, 2)}\n`;
}

function tiersJson(plan: Plan) {
  return {
    gpuBytes: tierBytes(plan, 'gpu'),
    dramBytes: tierBytes(plan, 'dram'),
    nvmeBytes: tierBytes(plan, 'nvme'),
  };
}

function passJson(pass: PredictedPass | undefined) {
  return pass ? { ...pass, tokensPerSecond: perSecond(pass) } : null;
}

/** For logs: what was chosen, and every summand of the memory that it takes. */
export function planDetails(plan: Plan): string[] {
  const {
    microBatchTokens,
    microBatchSequences,
    passTokens,
    hostBuffers,
    deviceBuffers,
    activationType,
    kvType,
  } = plan;
  return [
    `plan: micro-batches of at most ${counted(microBatchTokens, 'token')} and ${counted(microBatchSequences, 'sequence')}, ` +
      `passes of at most ${counted(passTokens, 'token')}, ${counted(hostBuffers.count, 'host buffer')}, ` +
      `${counted(deviceBuffers.count, 'device buffer')}, activations in ${activationType}, keys and values in ${KV_TYPE_NAMES[kvType]}`,
    ...plan.terms.map(
      ({ tier, name, bytes, reason }) => `plan: ${tier} ${formatBytes(bytes)} ${name}: ${reason}`,
    ),
  ];
}
