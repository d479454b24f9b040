// What a program says about opening a model, checked before anything is read.

import { availableParallelism } from 'node:os';
import {
  counted,
  cudaStatus,
  KV_CHOICES,
  type KvDType,
  kvTypeOf,
  type Offload,
  OperatingError,
} from '../../offload/index.js';
import { chooseDevice, type DeviceKind, PARALLEL, type Parallel } from '../engine/engine-options.js';
import type { TypeName } from '../engine/shape-tensors.js';
import { PACKED_WEIGHTS, type PackedWeights } from '../pack/scheme.js';
import { badOption, Options, shown } from './option-check.js';
import type { Logger, OpenOptions, OpenProgress, Signal } from './types.js';

export interface OpenSettings {
  readonly model: string;
  readonly task: 'generate' | 'score';
  readonly device: DeviceKind;
  readonly deviceCount: number;
  readonly parallel: Parallel;
  /** Why a GPU that is there does not compute, where nobody asked for the CPU. */
  readonly warnings: readonly string[];
  readonly offload: Offload;
  readonly nvmePaths: readonly string[];
  readonly dramBudgetBytes: number | undefined;
  readonly deviceBudgetBytes: number | undefined;
  readonly kvOffload: boolean;
  /** Undefined: as they are computed. */
  readonly kvType: KvDType | undefined;
  /** On a GPU nothing is rounded to 16 bits. */
  readonly computesInFloats: boolean;
  /** What weights must be stored as. */
  readonly dtype: TypeName | undefined;
  /** What they are packed as at first use. */
  readonly packed: PackedWeights | undefined;
  readonly threads: number | undefined;
  readonly maxSequences: number | undefined;
  readonly contextTokens: number | undefined;
  readonly cacheTokens: number | undefined;
  readonly generationConfig: boolean;
  readonly revision: string | undefined;
  readonly onProgress: (progress: OpenProgress) => void;
  readonly logger: Logger;
  readonly signal: Signal | undefined;
}

const NAMES = [
  'task',
  'device',
  'numGpus',
  'parallel',
  'offload',
  'nvmePath',
  'dramMemory',
  'gpuMemory',
  'kvOffload',
  'kvDtype',
  'computeDtype',
  'dtype',
  'threads',
  'maxSequences',
  'contextTokens',
  'cacheTokens',
  'generationConfig',
  'revision',
  'onProgress',
  'logger',
  'signal',
] as const satisfies readonly (keyof OpenOptions)[];

const MOST_SEQUENCES = 16_384;

const SILENT: Logger = { debug: () => undefined, info: () => undefined, warn: () => undefined };

/** Throws BAD_OPTION or NO_DEVICE. */
export function readOpenOptions(model: unknown, given: OpenOptions | undefined): OpenSettings {
  if (typeof model !== 'string' || model === '') {
    throw badOption(
      `the model is ${shown(model)}: give the folder of a checkpoint, or a model of the hub such as 'bigscience/bloom-560m'`,
    );
  }
  const options = new Options(given, NAMES, 'the options of open');
  const wanted = options.choice('offload', ['auto', 'dram', 'nvme']);
  const nvmePaths = options.texts('nvmePath');
  if (nvmePaths.length > 0 && wanted !== undefined && wanted !== 'nvme') {
    throw badOption(
      `offload is '${wanted}' and nvmePath is given, with which weights rest on a drive: leave one out`,
    );
  }
  const devices = readDevices(options);
  return {
    model,
    task: options.choice('task', ['generate', 'score']) ?? 'generate',
    ...devices,
    parallel: ofGpus(options, 'parallel', devices.device, options.choice('parallel', PARALLEL)) ?? 'streams',
    offload: wanted ?? (nvmePaths.length === 0 ? 'auto' : 'nvme'),
    nvmePaths,
    dramBudgetBytes: options.size('dramMemory'),
    deviceBudgetBytes: ofGpus(options, 'gpuMemory', devices.device, options.size('gpuMemory')),
    kvOffload: ofGpus(options, 'kvOffload', devices.device, options.flag('kvOffload')) ?? false,
    kvType: kvTypeOf(options.choice('kvDtype', KV_CHOICES)),
    computesInFloats: options.choice('computeDtype', ['auto', 'float32']) === 'float32',
    ...readType(options),
    threads: options.count('threads', 1, Math.max(1024, availableParallelism())),
    maxSequences: options.count('maxSequences', 1, MOST_SEQUENCES),
    contextTokens: options.count('contextTokens', 2),
    cacheTokens: options.count('cacheTokens'),
    generationConfig: options.flag('generationConfig') ?? false,
    revision: options.text('revision'),
    onProgress: options.callback('onProgress') ?? (() => undefined),
    logger: options.methods<Logger>('logger', ['debug', 'info', 'warn']) ?? SILENT,
    signal: options.signal('signal'),
  };
}

function readType(options: Options): Pick<OpenSettings, 'dtype' | 'packed'> {
  const float = ['float16', 'bfloat16', 'float32'] as const satisfies readonly TypeName[];
  const type = options.choice('dtype', [...float, ...PACKED_WEIGHTS]);
  const packed = PACKED_WEIGHTS.find((name) => name === type);
  return { packed, dtype: float.find((name) => name === type) };
}

function readDevices(options: Options): Pick<OpenSettings, 'device' | 'deviceCount' | 'warnings'> {
  const wanted = options.choice('device', ['auto', 'cpu', 'cuda']) ?? 'auto';
  const gpus = options.count('numGpus');
  if (wanted === 'cpu') {
    if (gpus === undefined) return { device: 'cpu', deviceCount: 1, warnings: [] };
    throw badOption(`device is 'cpu' and numGpus is ${gpus}: leave one out`);
  }
  const status = cudaStatus();
  const { problem, present, devices } = status;
  if (wanted === 'auto' && gpus === undefined && chooseDevice(status) === 'cpu') {
    const warnings = present ? [`computing on the CPU, because ${problem}; device 'cpu' asks for that`] : [];
    return { device: 'cpu', deviceCount: 1, warnings };
  }
  if (problem !== '') {
    const asked = gpus === undefined ? "device is 'cuda'" : `numGpus is ${gpus}`;
    throw new OperatingError('NO_DEVICE', `${asked}, but ${problem}; or give device 'cpu'`);
  }
  const deviceCount = gpus ?? 1;
  if (deviceCount <= devices.length) return { device: 'cuda', deviceCount, warnings: [] };
  const found = counted(devices.length, 'GPU');
  throw new OperatingError(
    'NO_DEVICE',
    `numGpus is ${gpus}, but CUDA finds ${found}: give at most ${devices.length}`,
  );
}

/** With `auto`, a program may run on either, so only who asks for the CPU is told that an option is not of it. */
function ofGpus<T>(options: Options, name: string, device: DeviceKind, value: T | undefined): T | undefined {
  if (value === undefined || device === 'cuda') return value;
  if (options.value('device') === 'cpu')
    throw badOption(`device is 'cpu' and ${name} is of GPUs: leave one out`);
  return undefined;
}
