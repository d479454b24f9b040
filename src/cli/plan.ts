// `plan`: where everything would rest and how long a step would take, before any weights are loaded.

import { statSync } from 'node:fs';
import {
  counted,
  type Extent,
  elementCount,
  type HardwareProfile,
  MiB,
  type ModelSpec,
  type PlanOptions,
  vectorsOf,
  type WeightType,
} from '../../offload/index.js';
import { measureMachine, readMachine } from '../doctor/machine.js';
import { deviceWarning, dramWarning } from '../engine/budget.js';
import type { OpenedModel } from '../engine/open-model.js';
import { packedShapes } from '../engine/shape.js';
import { describedBetween, openedAs, planOfWay, possibleWays } from '../engine/ways.js';
import { bestCompared, compareWays, waysJson, waysText } from '../report/compared-ways.js';
import { hostsText, planHosts } from '../report/hosts.js';
import { makePlanReport, type PlanRequest } from '../report/plan-report.js';
import { type PlannedModel, planJson, planText } from '../report/plan-text.js';
import { ratesOf } from '../stored/weights-on-drives.js';
import type { CommandContext } from './context.js';
import { planOptionsFor, warningsFor } from './options/ds-config-options.js';
import { badOption } from './options/option-reader.js';
import type { PlanCommandOptions } from './options/plan-options.js';
import { openPlanned } from './planned-model.js';
import { checkFiles, sharedInputs } from './results/run-files.js';

/** How devices share the work is compared with so many texts where the batch is to be chosen as well. */
const COMPARED_BATCH = 32;

export async function runPlan(options: PlanCommandOptions, context: CommandContext): Promise<void> {
  checkFiles({ '--machine': options.machine, ...sharedInputs(options) }, {}, options.name);
  for (const warning of options.warnings) context.log.warn(warning);
  const planned = await openPlanned(options, context);
  const machine = await machineFor(options, planned, context);
  const { count } = machine.devices;
  const { memoryBytes } = machine.devices;
  const warnings = [
    ...dramWarning(options.dramBudgetBytes, machine.dramBytes, `on ${options.machine ?? 'this machine'}`),
    ...deviceWarning(options.deviceBudgetBytes, memoryBytes ?? undefined),
  ];
  for (const line of warnings) context.log.warn(line);
  const requestFor = ({ model }: OpenedModel, plan: Partial<PlanOptions>): PlanRequest => {
    const { offload, dramBudgetBytes, batchSize, promptTokens, newTokens, maxContext, gather } = options;
    const own = { ...deviceBudget(options), ...planOptionsFor(options, model), ...plan };
    const job = { batchSize, promptTokens, newTokens, maxContext };
    return { model, offload, dramBudgetBytes, plan: own, machine, gather, ...job };
  };
  const ways = options.parallel === 'auto' && count > 1 ? possibleWays(planned, count) : [];
  const batchSize = options.batchSize === 'auto' ? COMPARED_BATCH : options.batchSize;
  const compared = ways.length > 0 ? compareWays(requestFor(planned, {}), ways, batchSize) : [];
  const chosen = compared.length > 0 ? bestCompared(compared).possible : undefined;
  const opened = chosen?.opened ?? openedAs(planned, options.parallel, count);
  const shared = chosen?.plan ?? planOfWay(options.parallel, count);
  const alternatives = packedShapes(opened).map(({ name, packed: { model, checkpoint } }) => ({
    name,
    model,
    weightBytes: checkpoint.totalBytes,
  }));
  const report = makePlanReport({ ...requestFor(opened, shared), alternatives });
  for (const line of warningsFor(options, opened.model, report.plan)) context.log.warn(line);
  const model = describeModel(options.name, opened);
  const hosts = options.hosts && planHosts(report, options.hosts);
  if (options.hosts && !hosts) {
    context.log.warn('--hosts: how long a job takes is not known, as the rates of the machine are not');
  }
  if (options.json) {
    const more = {
      ...(options.hosts ? { hosts: hosts ?? null } : {}),
      ...(chosen ? { ways: waysJson(compared) } : {}),
    };
    context.write(planJson(model, report, more));
  } else {
    const table = chosen ? `\n${waysText(compared, batchSize, describedBetween(machine.devices))}` : '';
    context.write(planText(model, report) + table + (hosts ? `\n${hostsText(hosts)}` : ''));
  }
}

function deviceBudget({ deviceBudgetBytes }: PlanCommandOptions): Partial<PlanOptions> {
  return deviceBudgetBytes === undefined ? {} : { deviceBudgetBytes, deviceBudgetName: '--gpu_memory' };
}

async function machineFor(
  options: PlanCommandOptions,
  { model, checkpoint }: OpenedModel,
  { log, interrupt: { signal } }: CommandContext,
): Promise<HardwareProfile> {
  const { machine, gpuCount } = options;
  if (machine !== undefined) return withGpus(await readMachine(machine), machine, gpuCount);
  if (gpuCount !== undefined && gpuCount > 1) {
    throw badOption(
      `--num_gpus is ${gpuCount}, but plan measures only what this machine's processor computes: add --machine with a ` +
        'description of GPUs, such as configs/machines/h100-x2.json',
    );
  }
  const { offloadDrives: drives } = options;
  const hasOne = options.offload !== 'dram' && drives.length < 2;
  const driveFile = hasOne ? largeFile(checkpoint.files, drives[0]?.folder) : undefined;
  log.info(
    `measuring what ${options.device === 'cuda' ? "this machine's GPU" : 'this machine'} computes${driveFile === undefined ? '' : `, and its drive with ${driveFile}`}`,
  );
  return measureMachine({
    weightTypes: matrixTypes(model),
    device: options.device,
    deviceCount: options.deviceCount,
    cpu: options.cpu,
    ...(driveFile === undefined ? {} : { driveFile }),
    ...(drives.length > 1
      ? { drive: await ratesOf(drives, { env: process.env, signal, log: (line) => log.info(line) }) }
      : {}),
  });
}

/** The machine with so many of its GPUs in use; all of them when it is not said. */
function withGpus(machine: HardwareProfile, path: string, gpuCount: number | undefined): HardwareProfile {
  if (gpuCount === undefined) return machine;
  const { kind, count } = machine.devices;
  if (kind === 'cpu' && gpuCount > 1) {
    throw badOption(`--num_gpus is ${gpuCount}, but ${path} describes a machine without GPUs: leave it out`);
  }
  if (gpuCount > count) {
    throw badOption(
      `--num_gpus is ${gpuCount}, but ${path} describes ${counted(count, 'GPU')}: give at most ${count}`,
    );
  }
  return { ...machine, devices: { ...machine.devices, count: gpuCount } };
}

/** A file of that many bytes at least tells something about its drive. */
const LARGE_FILE_BYTES = 64 * MiB;

/** The largest, if it is there (of a shape it isn't), large, and on the drive that weights are to rest on. */
function largeFile(files: readonly string[], offloadFolder: string | undefined): string | undefined {
  const statOf = (path: string) => statSync(path, { throwIfNoEntry: false });
  const [largest] = files
    .map((path) => ({ path, stat: statOf(path) }))
    .sort((a, b) => (b.stat?.size ?? 0) - (a.stat?.size ?? 0));
  if (!largest?.stat || largest.stat.size < LARGE_FILE_BYTES) return undefined;
  const elsewhere = offloadFolder !== undefined && statOf(offloadFolder)?.dev !== largest.stat.dev;
  return elsewhere ? undefined : largest.path;
}

/** Types of the weights that products read. */
function matrixTypes({ blocks, head }: ModelSpec): WeightType[] {
  const all = [head.projection, ...blocks.flatMap(({ matrices }) => matrices)];
  return [...new Set(all.map(({ format }) => format.type))];
}

function describeModel(name: string, { checkpoint, model }: OpenedModel): PlannedModel {
  let parameters = 0;
  const seen = new Set<number>();
  const count = ({ fileIndex, fileOffset }: Extent, shape: readonly number[]) => {
    const place = fileIndex * 2 ** 48 + fileOffset;
    if (seen.has(place)) return; // a tied head is the table's own bytes
    seen.add(place);
    parameters += elementCount(shape);
  };
  for (const { extent, rowCount, columns } of model.tables) count(extent, [rowCount, columns]);
  const layers = [...model.blocks, model.fixed];
  for (const { parts, shape } of [...layers.flatMap(({ matrices }) => matrices), model.head.projection]) {
    if (parts.codes) count(parts.codes.extent, shape);
  }
  // Scales and the like are no parameters, nor are tables of whole numbers.
  for (const { extent, shape, dtype } of layers.flatMap(vectorsOf)) if (dtype !== 'i32') count(extent, shape);
  if (model.head.bias) count(model.head.bias.extent, model.head.bias.shape);
  return { name, architecture: model.architecture, parameters, weightBytes: checkpoint.totalBytes };
}
