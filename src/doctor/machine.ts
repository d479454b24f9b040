// Descriptions of machines: read from a file, or measured on this one.

import { cpus } from 'node:os';
import {
  type Backend,
  CpuBackend,
  type CpuBackendOptions,
  CudaBackend,
  type CudaStatus,
  checkInstructions,
  cudaStatus,
  detectHardware,
  formatBytes,
  type HardwareProfile,
  measureCompute,
  measureDrive,
  measureLinks,
  measureTogether,
  OperatingError,
  present,
  type WeightType,
} from '../../offload/index.js';
import { parseProfile } from '../../offload/plan/profile-file.js';
import type { DeviceKind } from '../engine/engine-options.js';
import { DEVICE_MARGIN_BYTES } from '../engine/plan-for.js';
import { readOptionalJsonObject } from '../files/json-file.js';

const DRIVE_MS = 1000;

/** Throws NOT_FOUND or BAD_CONFIG. */
export async function readMachine(path: string): Promise<HardwareProfile> {
  const json = await readOptionalJsonObject(path, 'BAD_CONFIG');
  if (json) return parseProfile(json, path);
  throw new OperatingError(
    'NOT_FOUND',
    `--machine is ${path}, and there is no such file: write one with doctor --save FILE, or take one of configs/machines`,
  );
}

export interface MeasureMachineOptions {
  readonly weightTypes: readonly WeightType[];
  /** What computes; default the CPU. */
  readonly device?: DeviceKind;
  /** How many GPUs; default one. */
  readonly deviceCount?: number;
  readonly cpu?: CpuBackendOptions;
  /** Measured elsewhere. */
  readonly drive?: NonNullable<HardwareProfile['drive']>;
  /** A large file to measure its drive with, for a second; one that cannot be read leaves the drive unknown. */
  readonly driveFile?: string;
}

/**
 * Takes seconds, and 250 MiB of memory meanwhile, or 1.5 GiB of each GPU. Rejects with NO_DEVICE, or DOES_NOT_FIT where
 * a GPU has less.
 */
export async function measureMachine(options: MeasureMachineOptions): Promise<HardwareProfile> {
  const { weightTypes, device: kind = 'cpu', deviceCount = 1, cpu = {}, driveFile } = options;
  const { dramAvailableBytes } = detectHardware();
  // Asked before anything of this process is on the device.
  const gpus = kind === 'cuda' ? cudaStatus().devices.slice(0, deviceCount) : [];
  const backend = openBackend(kind, deviceCount, cpu);
  try {
    const device = present(backend.devices[0], 'device');
    const drive = options.drive ?? (driveFile === undefined ? undefined : await driveOf(backend, driveFile));
    const memory = `${formatBytes(dramAvailableBytes)} of memory available`;
    return {
      name: `${kind === 'cuda' ? gpuName(gpus) : cpuName()}, ${memory}`,
      dramBytes: dramAvailableBytes,
      drive: drive ?? null,
      devices: kind === 'cuda' ? await describeGpus(backend, gpus) : IN_PLACE,
      compute: await measureCompute({ backend, device, weightTypes, threads: cpu.threads }),
    };
  } finally {
    await backend.close();
  }
}

const IN_PLACE: HardwareProfile['devices'] = {
  kind: 'cpu',
  count: 1,
  memoryBytes: null,
  linkBytesPerSecond: null,
  peerBytesPerSecond: null,
};

function openBackend(kind: DeviceKind, deviceCount: number, cpu: CpuBackendOptions): Backend {
  if (kind === 'cpu') {
    checkInstructions();
    return new CpuBackend(cpu);
  }
  return new CudaBackend({
    devices: [...Array(deviceCount).keys()],
    ...(cpu.io === undefined ? {} : { io: cpu.io }),
  });
}

/** Memory as an engine would find it. With several GPUs the processor does not compute beside them. */
export async function describeGpus(
  backend: Backend,
  gpus: readonly Pick<CudaStatus['devices'][number], 'freeBytes'>[],
): Promise<HardwareProfile['devices']> {
  const together = gpus.length === 1 ? await measureTogether(backend) : undefined;
  const free = gpus.reduce((least, { freeBytes }) => Math.min(least, freeBytes), Number.POSITIVE_INFINITY);
  return {
    kind: 'gpu',
    count: gpus.length,
    memoryBytes: Math.max(1, free - DEVICE_MARGIN_BYTES),
    ...(together ? { hostBytesPerSecond: together.hostBytesPerSecond } : {}),
    ...(await measureLinks(backend)),
  };
}

function gpuName(gpus: CudaStatus['devices']): string {
  const names = [...new Set(gpus.map(({ name }) => name))];
  return `${gpus.length} × ${names.join(' and ')}`;
}

async function driveOf(backend: Backend, path: string): Promise<HardwareProfile['drive'] | undefined> {
  try {
    const { bytesPerSecond, latencyMs } = await measureDrive(backend, path, DRIVE_MS);
    return { bytesPerSecond, latencyMs };
  } catch (error) {
    if (error instanceof OperatingError) return undefined;
    throw error;
  }
}

function cpuName(): string {
  const all = cpus();
  return `${all.length} × ${all[0]?.model.trim() ?? 'processor'}`;
}
