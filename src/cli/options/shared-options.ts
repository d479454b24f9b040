// Options of every command that runs a model: which one, on what, where weights rest, and how they stream.

import type {
  ComputeType,
  CpuBackendOptions,
  CudaStatus,
  DeviceResident,
  ExpertSlotsOption,
  GatherWish,
  PlanOptions,
} from '../../../offload/index.js';
import { counted, cudaStatus, kvTypeOf, OperatingError, parseBytes } from '../../../offload/index.js';
import { chooseDevice, type DeviceKind } from '../../engine/engine-options.js';
import { isFloatType } from '../../engine/shape-tensors.js';
import { PACKED_WEIGHTS, type PackedWeights } from '../../pack/scheme.js';
import type { DriveWish } from '../../stored/drive-rates.js';
import { computeTypeOn } from './compute-type.js';
import type { DsSettings, DsTensorParallel } from './ds-config.js';
import { readDsConfig, withDsConfig } from './ds-config-options.js';
import { idleOptions } from './idle-options.js';
import { badOption, type OptionReader } from './option-reader.js';
import type { SharedOptions } from './shared-settings.js';
import { SHARED_OPTIONS } from './tables/shared.js';

/** Each is three threads and buffers of its own. */
const MOST_VIRTUAL_DEVICES = 16;

/** What a command's options are about: this machine's devices, one of them, or a machine that a file describes. */
export type Whose = 'several' | 'one' | 'described';

/** Throws BAD_OPTION, UNSUPPORTED, NO_DEVICE, NOT_FOUND or BAD_CONFIG. */
export function readSharedOptions(options: OptionReader, whose: Whose = 'several'): SharedOptions {
  const elsewhere = whose === 'described';
  const dsConfig = readDsConfig(options.path('ds_config'));
  const together = togetherBy(dsConfig, whose, options);
  const { device, deviceCount, warnings } = elsewhere
    ? describedDevices(options, together)
    : readDevices(options, together);
  const parallel =
    options.choice('parallel', SHARED_OPTIONS.parallel.choices) ??
    (together && deviceCount > 1 ? 'tensor' : 'streams');
  const gather = readGather(options);
  if (!elsewhere) checkGather(gather, options, device);
  const name = options.path('name');
  if (name === undefined)
    throw badOption('--name is missing: give the folder of a checkpoint, or a model of the hub');
  options.exclude('cpu_offload', 'nvme_offload_path', 'weights rest either in DRAM or on the drive');
  options.exclude('revision', 'dummy_weights', 'a shape has no revisions');
  const offloadDrives = options.list('nvme_offload_path').map(driveWish);
  const placed = offloadDrives.length === 0 ? 'auto' : 'nvme';
  const dummyFolder = options.text('dummy_weights');
  const computeType = computeTypeOn(
    device,
    options.choice('compute_dtype', SHARED_OPTIONS.compute_dtype.choices),
  );
  const shared: SharedOptions = {
    name,
    revision: options.text('revision'),
    dummyWeights: dummyFolder === undefined ? undefined : { folder: dummyFolder || undefined },
    ...readType(options, name),
    offload: options.flag('cpu_offload') ? 'dram' : placed,
    offloadDrives,
    dramBudgetBytes: options.bytes('dram_memory'),
    device,
    deviceBudgetBytes: options.bytes('gpu_memory'),
    deviceCount,
    parallel,
    batchCount: parallel === 'tensor' ? 1 : deviceCount,
    gather,
    plan: readPlanOptions(options, computeType),
    cpu: readCpuOptions(options, device === 'cpu' ? computeType : undefined),
    dsConfig: undefined,
    warnings: [
      ...warnings,
      ...idleOptions(options, { device, deviceCount, described: elsewhere }),
      ...(whose === 'one' ? alone(dsConfig) : []),
    ],
    report: options.path('report'),
    trace: options.path('trace'),
  };
  return withDsConfig(shared, options, dsConfig);
}

/** The GPUs that a file has compute together, where the command has several devices and the options do not say that the CPU computes. */
function togetherBy(
  settings: DsSettings | undefined,
  whose: Whose,
  options: OptionReader,
): DsTensorParallel | undefined {
  const isCpu = options.text('device') === 'cpu' && !options.has('virtual_devices');
  return whose === 'one' || isCpu ? undefined : settings?.tensorParallel;
}

function alone(settings: DsSettings | undefined): string[] {
  const { devices, key } = settings?.tensorParallel ?? { devices: 1, key: '' };
  return devices === 1 ? [] : [`${settings?.path}: ${key} cannot apply: a conversation has one device`];
}

/** A folder, and what its drive yields where that is said: `/mnt/a:2.5GB/s`. */
function driveWish(text: string): DriveWish {
  if (text === '') throw badOption('--nvme_offload_path is empty: give a path');
  const [, folder, rate] = /^(.+):(\d[^/:]*)\/s$/.exec(text) ?? [];
  if (folder === undefined || rate === undefined) return { folder: text, bytesPerSecond: undefined };
  return { folder, bytesPerSecond: parseBytes(rate, `the rate of --nvme_offload_path ${folder}`) };
}

type Devices = Pick<SharedOptions, 'device' | 'deviceCount' | 'warnings'>;

/** @param together what a file says, below the options */
function readDevices(options: OptionReader, together: DsTensorParallel | undefined): Devices {
  options.exclude('num_gpus', 'virtual_devices', 'devices are either GPUs or the CPU');
  const wanted = options.choice('device', SHARED_OPTIONS.device.choices) ?? 'auto';
  const gpus = options.count('num_gpus') ?? together?.devices;
  const said =
    options.has('num_gpus') || !together
      ? `--num_gpus is ${gpus}`
      : `${together.key} of --ds_config is ${gpus}`;
  const virtual = options.count('virtual_devices', 1, MOST_VIRTUAL_DEVICES);
  if (virtual !== undefined) {
    if (wanted !== 'cuda') return { device: 'cpu', deviceCount: virtual, warnings: [] };
    throw badOption('--device is cuda and --virtual_devices is given, which are of the CPU: leave one out');
  }
  if (wanted === 'cpu' && gpus !== undefined && gpus > 1) {
    throw badOption(`--device is cpu and ${said}: leave one out`);
  }
  if (wanted === 'cpu') return { device: 'cpu', deviceCount: 1, warnings: [] };
  const status = cudaStatus();
  if (wanted === 'auto' && (gpus ?? 1) === 1 && chooseDevice(status) === 'cpu') {
    return { device: 'cpu', deviceCount: 1, warnings: leftOut(status) };
  }
  const { problem, devices } = status;
  if (problem !== '') {
    const [option, instead] =
      (gpus ?? 1) > 1 ? [said, 'leave it out'] : ['--device is cuda', 'use --device cpu'];
    throw new OperatingError('NO_DEVICE', `${option}, but ${problem}; or ${instead}`);
  }
  const deviceCount = gpus ?? 1;
  if (deviceCount > devices.length) {
    throw tooFewGpus(said, devices.length, process.env.CUDA_VISIBLE_DEVICES);
  }
  return { device: 'cuda', deviceCount, warnings: [] };
}

/** Why a GPU is there and the CPU computes: nobody who has one expects that. */
function leftOut({ problem, present }: CudaStatus): string[] {
  return present ? [`computing on the CPU, because ${problem}; --device cpu asks for that`] : [];
}

/** How many there are, `plan` compares with the file. */
function describedDevices(options: OptionReader, together: DsTensorParallel | undefined): Devices {
  const device = options.choice('device', SHARED_OPTIONS.device.choices) === 'cuda' ? 'cuda' : 'cpu';
  return { device, deviceCount: options.count('num_gpus') ?? together?.devices ?? 1, warnings: [] };
}

function readGather(options: OptionReader): GatherWish | undefined {
  return options.choice('gather', SHARED_OPTIONS.gather.choices);
}

function checkGather(wish: GatherWish | undefined, options: OptionReader, device: DeviceKind): void {
  if (wish === undefined || wish === 'auto' || device === 'cuda') return;
  if (wish === 'nccl') throw badOption('--gather is nccl, which is of GPUs: give peer or none');
  if (!options.has('virtual_devices')) {
    throw badOption(
      `--gather is ${wish}, but one device computes in DRAM: leave it out, or add --virtual_devices`,
    );
  }
}

/**
 * @param said how many were wanted, as a clause
 * @param visible the environment's list of GPUs, which CUDA has applied already
 */
export function tooFewGpus(said: string, found: number, visible: string | undefined): OperatingError {
  const why = visible === undefined ? '' : ` (CUDA_VISIBLE_DEVICES is '${visible}')`;
  return new OperatingError(
    'NO_DEVICE',
    `${said}, but CUDA finds ${counted(found, 'GPU')}${why}: give at most ${found}`,
  );
}

/** A type of random weights, or of a shape; of a checkpoint one that it must have, or one to pack it as. */
function readType(options: OptionReader, name: string): Pick<SharedOptions, 'dtype' | 'packed'> {
  const type = options.choice('dtype', SHARED_OPTIONS.dtype.choices);
  const isShape = options.has('dummy_weights') || name.endsWith('.json');
  if (isShape || type === undefined || isFloatType(type)) return { dtype: type, packed: undefined };
  if (isPacked(type)) return { dtype: undefined, packed: type };
  throw badOption(
    `--dtype is ${type}, which random weights may have, but which no checkpoint is packed as: give ` +
      `${PACKED_WEIGHTS.join(', ')}, or leave it out`,
  );
}

function isPacked(type: string | undefined): type is PackedWeights {
  return PACKED_WEIGHTS.some((packed) => packed === type);
}

function readPlanOptions(options: OptionReader, computeType: ComputeType | undefined): Partial<PlanOptions> {
  const hostWindowLayers = options.count('prefetch_layers');
  const microBatchSequences = options.count('micro_batch_size');
  const microBatchTokens = options.count('micro_batch_tokens');
  const deviceResident = readDeviceResident(options);
  const expertSlots = readExpertSlots(options);
  const cpuCompute = options.choice('cpu_compute', SHARED_OPTIONS.cpu_compute.choices);
  const kvType = kvTypeOf(options.choice('kv_dtype', SHARED_OPTIONS.kv_dtype.choices));
  return {
    ...(deviceResident === undefined ? {} : { deviceResident }),
    ...(expertSlots === undefined ? {} : { expertSlots }),
    ...(cpuCompute === undefined ? {} : { cpuCompute }),
    ...(options.flag('kv_offload') ? { kvOffload: true } : {}),
    ...(kvType === undefined ? {} : { kvType }),
    // It is asked of GPUs alone, also of those that a plan is given a description of.
    ...(computeType === 'float32' ? { activationType: 'f32' } : {}),
    ...(hostWindowLayers === undefined ? {} : { hostWindowLayers }),
    ...(microBatchSequences === undefined ? {} : { microBatchSequences }),
    ...(microBatchTokens === undefined ? {} : { microBatchTokens }),
  };
}

function readExpertSlots(options: OptionReader): ExpertSlotsOption | undefined {
  const text = options.text('expert_slots');
  if (text === undefined || text === 'auto') return text;
  if (/^\d+$/.test(text)) return options.count('expert_slots', 0);
  throw badOption(`--expert_slots is '${text}': give auto, 0 or a number of experts such as 512`);
}

function readDeviceResident(options: OptionReader): DeviceResident | undefined {
  const text = options.text('gpu_resident');
  if (text === undefined || text === 'auto') return text;
  if (/^\d+$/.test(text)) return { layers: options.count('gpu_resident', 0) ?? 0 };
  try {
    return { bytes: parseBytes(text, '--gpu_resident') };
  } catch {
    throw badOption(
      `--gpu_resident is '${text}': give auto, a number of layers such as 12, or a size such as 8GiB`,
    );
  }
}

function readCpuOptions(options: OptionReader, computeType: ComputeType | undefined): CpuBackendOptions {
  const threads = options.count('threads');
  const engine = options.choice('io_engine', SHARED_OPTIONS.io_engine.choices);
  const direct = options.flag('no_direct_io') ? { direct: false } : {};
  const virtualDevices = options.count('virtual_devices', 1, MOST_VIRTUAL_DEVICES);
  return {
    ...(virtualDevices === undefined ? {} : { virtualDevices }),
    ...(computeType === undefined ? {} : { computeType }),
    ...(threads === undefined ? {} : { threads }),
    io: { ...(engine === undefined ? {} : { engine }), ...direct },
  };
}
