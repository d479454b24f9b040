// Puts a DeepSpeed file below the command line: what an option says wins, and that it won is said.

import { readFileSync } from 'node:fs';
import type { ModelSpec, Plan, PlanOptions } from '../../../offload/index.js';
import { OperatingError } from '../../../offload/index.js';
import { reason } from '../../files/json-file.js';
import {
  type DsSettings,
  dsModelWarnings,
  dsPlanOptions,
  dsPlanWarnings,
  parseDsConfig,
} from './ds-config.js';
import type { OptionReader } from './option-reader.js';
import type { SharedOptions } from './shared-settings.js';

/** The file that --ds_config names. Throws NOT_FOUND or BAD_CONFIG. */
export function readDsConfig(path: string | undefined): DsSettings | undefined {
  if (path === undefined) return undefined;
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new OperatingError('NOT_FOUND', `--ds_config is ${path}, which cannot be read: ${reason(error)}`, {
      cause: error,
    });
  }
  return parseDsConfig(text, path);
}

/** The options as they are with the file's settings where the command line is silent. */
export function withDsConfig(
  shared: SharedOptions,
  options: OptionReader,
  settings: DsSettings | undefined,
): SharedOptions {
  if (!settings) return shared;
  const { device, nvmePath, dtype, blockBytes, queueDepth, residentElements, path } = settings;
  const placed = options.flag('cpu_offload') || options.has('nvme_offload_path');
  const isShape = shared.dummyWeights !== undefined || shared.name.endsWith('.json');
  return {
    ...shared,
    ...(placed || device === undefined || device === 'none'
      ? {}
      : placement(device, nvmePath, residentElements)),
    // Real weights have the type they have; a shape may take the file's.
    dtype: shared.dtype ?? (isShape ? dtype : undefined),
    cpu: {
      ...shared.cpu,
      io: {
        ...(blockBytes === undefined ? {} : { chunkBytes: blockBytes }),
        ...(queueDepth === undefined ? {} : { queueDepth }),
        ...shared.cpu.io,
      },
    },
    dsConfig: settings,
    warnings: [
      ...shared.warnings,
      ...settings.warnings,
      ...overruled(options, settings).map((line) => `${path}: ${line}`),
    ],
  };
}

function placement(
  device: 'cpu' | 'nvme',
  nvmePath: string | undefined,
  residentElements: number | undefined,
): Pick<SharedOptions, 'offload' | 'offloadDrives'> {
  if (device === 'cpu') return { offload: 'dram', offloadDrives: [] };
  // What max_in_cpu allows to rest in DRAM, the planner places.
  const offloadDrives = nvmePath === undefined ? [] : [{ folder: nvmePath, bytesPerSecond: undefined }];
  return { offload: residentElements ? 'auto' : 'nvme', offloadDrives };
}

/** Keys that say otherwise than an option that was given. */
function overruled(options: OptionReader, settings: DsSettings): string[] {
  const { device, batchSize, dtype, bufferCount, prefetchElements, tensorParallel } = settings;
  const lines: string[] = [];
  const say = (key: string, value: unknown, option: string) => {
    lines.push(`${key} is ${JSON.stringify(value)}, but --${option} is given and wins`);
  };
  const key = 'zero_optimization.offload_param.device';
  if (device !== undefined && device !== 'cpu' && options.flag('cpu_offload'))
    say(key, device, 'cpu_offload');
  if (device !== undefined && options.has('nvme_offload_path')) {
    if (device !== 'nvme') say(key, device, 'nvme_offload_path');
    else if (options.list('nvme_offload_path').join() !== settings.nvmePath)
      say('zero_optimization.offload_param.nvme_path', settings.nvmePath, 'nvme_offload_path');
  }
  if (settings.residentElements && options.has('nvme_offload_path')) {
    say('zero_optimization.offload_param.max_in_cpu', settings.residentElements, 'nvme_offload_path');
  }
  if (batchSize !== undefined && options.has('batch_size') && options.count('batch_size') !== batchSize) {
    say('train_micro_batch_size_per_gpu', batchSize, 'batch_size');
  }
  const type = options.text('dtype');
  if (dtype !== undefined && type !== undefined && type !== dtype) {
    say(dtype === 'float16' ? 'fp16.enabled' : 'bf16.enabled', true, 'dtype');
  }
  if (tensorParallel) {
    const { devices, key } = tensorParallel;
    for (const option of ['parallel', 'num_gpus', 'virtual_devices', 'device'] as const) {
      const same = option === 'parallel' ? 'tensor' : String(devices);
      const isOpen =
        option === 'device' && (options.text(option) !== 'cpu' || options.has('virtual_devices'));
      if (devices > 1 && options.has(option) && options.text(option) !== same && !isOpen) {
        say(key, devices, option);
      }
    }
  }
  if (!options.has('prefetch_layers')) return lines;
  if (bufferCount !== undefined && options.count('prefetch_layers') !== bufferCount) {
    say('zero_optimization.offload_param.buffer_count', bufferCount, 'prefetch_layers');
  } else if (bufferCount === undefined && prefetchElements !== undefined) {
    say('zero_optimization.stage3_prefetch_bucket_size', prefetchElements, 'prefetch_layers');
  }
  return lines;
}

/** The planner's options of file and command line together, once the model is known. */
export function planOptionsFor(
  { dsConfig, plan, offload }: SharedOptions,
  model: ModelSpec,
): Partial<PlanOptions> {
  if (!dsConfig) return plan;
  const { residentBytes, ...windows } = dsPlanOptions(dsConfig, model);
  return {
    ...windows,
    ...(residentBytes !== undefined && offload === 'auto' ? { residentBytes } : {}),
    ...plan,
  };
}

/** What the file could not have known of this model and its plan. */
export function warningsFor({ dsConfig }: SharedOptions, model: ModelSpec, plan: Plan): string[] {
  if (!dsConfig) return [];
  return [...dsModelWarnings(dsConfig, model), ...dsPlanWarnings(dsConfig, model, plan)];
}
