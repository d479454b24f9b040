// Descriptions of machines: read from a file, or measured on this one.

import { cpus } from 'node:os';
import {
  CpuBackend,
  type CpuBackendOptions,
  type DriveMeasurement,
  detectHardware,
  formatBytes,
  type HardwareProfile,
  measureCompute,
  measureDrive,
  OperatingError,
  parseProfile,
  present,
  type WeightType,
} from '../offload/index.js';
import { readOptionalJsonObject } from './json-file.js';

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
  readonly cpu?: CpuBackendOptions;
  /** Measured elsewhere. */
  readonly drive?: DriveMeasurement;
  /** A large file to measure its drive with, for a second; one that cannot be read leaves the drive unknown. */
  readonly driveFile?: string;
}

/** Takes seconds and 250 MiB of memory meanwhile. */
export async function measureMachine(options: MeasureMachineOptions): Promise<HardwareProfile> {
  const { weightTypes, cpu = {}, driveFile } = options;
  const { dramAvailableBytes } = detectHardware();
  const backend = new CpuBackend(cpu);
  try {
    const device = present(backend.devices[0], 'device');
    const drive = options.drive ?? (driveFile === undefined ? undefined : await driveOf(backend, driveFile));
    return {
      name: `${cpuName()}, ${formatBytes(dramAvailableBytes)} of memory available`,
      dramBytes: dramAvailableBytes,
      drive: drive ? { bytesPerSecond: drive.bytesPerSecond, latencyMs: drive.latencyMs } : null,
      devices: {
        kind: 'cpu',
        count: 1,
        memoryBytes: null,
        linkBytesPerSecond: null,
        peerBytesPerSecond: null,
      },
      compute: await measureCompute(backend, device, weightTypes, cpu.threads),
    };
  } finally {
    await backend.close();
  }
}

async function driveOf(backend: CpuBackend, path: string): Promise<DriveMeasurement | undefined> {
  try {
    return await measureDrive(backend, path, DRIVE_MS);
  } catch (error) {
    if (error instanceof OperatingError) return undefined;
    throw error;
  }
}

function cpuName(): string {
  const all = cpus();
  return `${all.length} × ${all[0]?.model.trim() ?? 'processor'}`;
}
