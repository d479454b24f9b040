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
  OperatingError,
  parseProfile,
  present,
  type WeightType,
} from '../offload/index.js';
import { readOptionalJsonObject } from './json-file.js';

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
  /** Measured elsewhere, because it needs a file. */
  readonly drive?: DriveMeasurement;
}

/** Takes seconds and 250 MiB of memory meanwhile. */
export async function measureMachine(options: MeasureMachineOptions): Promise<HardwareProfile> {
  const { weightTypes, cpu = {}, drive } = options;
  const { dramAvailableBytes } = detectHardware();
  const backend = new CpuBackend(cpu);
  try {
    const device = present(backend.devices[0], 'device');
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

function cpuName(): string {
  const all = cpus();
  return `${all.length} × ${all[0]?.model.trim() ?? 'processor'}`;
}
