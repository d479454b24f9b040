// Looks at this machine as the runtime would use it: findings with how to mend them, and its description for plans.

import { existsSync, readFileSync, statSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { availableParallelism, cpus, release, userInfo } from 'node:os';
import {
  CpuBackend,
  type CudaStatus,
  cudaStatus,
  type DriveMeasurement,
  detectHardware,
  formatBytes,
  formatRate,
  type HardwareProfile,
  instructionSets,
  MiB,
  machineTopology,
  measureDrive,
  OperatingError,
  probeDirect,
  probeIo,
} from '../../offload/index.js';
import { chooseDevice } from '../engine/engine-options.js';
import { writeProbeFile } from '../files/probe-file.js';
import { textTable } from '../report/text-table.js';
import {
  checkCuda,
  checkDirect,
  checkHugePages,
  checkInstructionSets,
  checkIoUring,
  checkMemory,
  checkNodes,
  checkProcessor,
  checkRegistration,
  type Finding,
  type Standing,
  type System,
} from './checks.js';
import { measureMachine } from './machine.js';

export interface Diagnosis {
  readonly findings: readonly Finding[];
  /** Undefined where the processor lacks what the kernels need. */
  readonly machine: HardwareProfile | undefined;
}

const DRIVE_MS = 3000;
const PROBE = { sizeBytes: 512 * MiB, advice: 'give --path another folder, or a file to read' };

const SYSTEM: System = { readText, exists: existsSync };

/**
 * @param paths files to read, or folders to write a temporary file in; of several drives also what they yield together
 * Rejects with NOT_FOUND, NO_SPACE or WRITE_FAILED for what is wrong with the path.
 */
export async function diagnose(paths: readonly string[], signal: AbortSignal): Promise<Diagnosis> {
  const io = await probeIo();
  const sets = instructionSets();
  const findings = [
    checkProcessor(cpus()[0]?.model.trim() ?? 'processor', cpus().length, availableParallelism()),
    checkInstructionSets(sets),
    checkMemory(detectHardware()),
    ...[checkNodes(machineTopology())].filter((one) => one !== undefined),
    checkHugePages(SYSTEM),
    checkIoUring(io, release(), SYSTEM),
    checkRegistration(io, SYSTEM, standing()),
  ];
  const drive = await onDrives(paths, signal, findings);
  signal.throwIfAborted();
  const cuda = cudaStatus();
  const device = chooseDevice(cuda);
  const machine =
    sets.length > 0 || device === 'cuda'
      ? await measureMachine({
          weightTypes: ['bf16', 'f16', 'f32'],
          device,
          ...(drive ? { drive: { bytesPerSecond: drive.bytesPerSecond, latencyMs: drive.latencyMs } } : {}),
        })
      : undefined;
  if (machine) findings.push(...rateFindings(machine));
  findings.push(checkCuda(SYSTEM, process.env.LD_LIBRARY_PATH));
  if (device === 'cuda') findings.push(gpuFinding(cuda));
  else if (cuda.present) findings.push(unusableGpu(cuda));
  return { findings, machine };
}

/** What all drives together yield; undefined where none is named. */
async function onDrives(
  paths: readonly string[],
  signal: AbortSignal,
  findings: Finding[],
): Promise<DriveMeasurement | undefined> {
  if (paths.length === 0) findings.push(NOT_MEASURED);
  const probes: FileHandle[] = [];
  const backend = new CpuBackend();
  try {
    const drives: { readonly file: string; readonly measured: DriveMeasurement }[] = [];
    for (const path of paths) {
      const probe = statOf(path).isDirectory() ? await writeProbeFile(path, PROBE, signal) : undefined;
      if (probe) probes.push(probe);
      const file = probe ? `/proc/self/fd/${probe.fd}` : path;
      const { direct, note } = await probeDirect(file);
      findings.push(checkDirect(path, direct, note));
      const measured = await measureDrive(backend, file, DRIVE_MS);
      findings.push(driveFinding(path, measured));
      drives.push({ file, measured });
      signal.throwIfAborted();
    }
    if (drives.length < 2) return drives[0]?.measured;
    const together = await Promise.all(drives.map(({ file }) => measureDrive(backend, file, DRIVE_MS)));
    findings.push(
      togetherFinding(
        drives.map(({ measured }) => measured),
        together,
      ),
    );
    return {
      bytesPerSecond: sumOfRates(together),
      latencyMs: Math.max(...together.map(({ latencyMs }) => latencyMs)),
      bytes: together.reduce((sum, { bytes }) => sum + bytes, 0),
      direct: together.every(({ direct }) => direct),
    };
  } finally {
    await Promise.all([backend.close(), ...probes.map((probe) => probe.close())]);
  }
}

function sumOfRates(drives: readonly DriveMeasurement[]): number {
  return drives.reduce((sum, { bytesPerSecond }) => sum + bytesPerSecond, 0);
}

/** Drives that hold each other back share a controller, a bus, or are one drive. */
function togetherFinding(alone: readonly DriveMeasurement[], together: readonly DriveMeasurement[]): Finding {
  const [apart, joint] = [sumOfRates(alone), sumOfRates(together)];
  const share = `${Math.round((100 * joint) / apart)} %`;
  const finding = `${formatRate(joint)} from all at once, ${share} of what they yield alone`;
  if (joint >= 0.9 * apart) return { topic: 'drives together', state: 'good', finding };
  const mend =
    'attach them to different controllers or slots, and give no two folders of one drive to --nvme_offload_path';
  return { topic: 'drives together', state: 'limited', finding, mend };
}

function statOf(path: string) {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found) return found;
  throw new OperatingError('NOT_FOUND', `--path is ${path}, and there is no such file or folder`);
}

const NOT_MEASURED: Finding = {
  topic: 'drive',
  state: 'unknown',
  finding: 'not measured',
  mend: 'give --path FOLDER, or --path FILE to read a file that is there',
};

function driveFinding(path: string, drive: DriveMeasurement): Finding {
  const { bytesPerSecond, latencyMs, bytes } = drive;
  return {
    topic: 'drive',
    state: 'good',
    finding:
      `${formatRate(bytesPerSecond)} at ${path} (${formatBytes(bytes)} read ${drive.direct ? 'past' : 'through'} the page cache), ` +
      `${latencyMs.toFixed(2)} ms for 4 KiB`,
  };
}

/** Findings about the measured rates of the device that a run takes. */
export function rateFindings({ compute, devices }: HardwareProfile): Finding[] {
  const gpu = devices.kind === 'gpu';
  const products = compute.products.map(({ weightType, points }) => {
    const best = points.reduce((most, { flopsPerSecond }) => Math.max(most, flopsPerSecond), 0);
    return `${weightType} ${formatFlops(best)}`;
  });
  const best = `products of matrices at best: ${products.join(', ')}`;
  const findings: Finding[] = [
    {
      topic: 'memory rate',
      state: 'good',
      finding: `${formatRate(compute.memoryBytesPerSecond)} ${gpu ? 'read and written by copies within the GPU' : 'read by all threads'}`,
    },
    {
      topic: 'arithmetic',
      state: 'good',
      finding: gpu ? best : `${formatFlops(compute.peakFlopsPerSecond)} on registers; ${best}`,
    },
  ];
  if (devices.linkBytesPerSecond === null) return findings;
  const finding = `${formatRate(devices.linkBytesPerSecond)} from page-locked memory to the GPU`;
  return [...findings, { topic: 'link', state: 'good', finding }];
}

function formatFlops(perSecond: number): string {
  return perSecond >= 1e12
    ? `${(perSecond / 1e12).toFixed(1)} TFLOP/s`
    : `${(perSecond / 1e9).toFixed(1)} GFLOP/s`;
}

export function gpuFinding({ devices, products }: CudaStatus): Finding {
  const each = devices.map(
    ({ name, totalBytes, freeBytes, computeCapability }) =>
      `${name} (${computeCapability}), ${formatBytes(freeBytes)} of ${formatBytes(totalBytes)} free`,
  );
  return { topic: 'GPU', state: 'good', finding: `${each.join('; ')}; products by ${products}` };
}

/** The finding where there is a GPU and models run on the CPU all the same. */
export function unusableGpu({ problem }: CudaStatus): Finding {
  return {
    topic: 'GPU',
    state: 'absent',
    finding: `it cannot be used, so that models run on the CPU: ${problem}`,
    mend: 'mend that, or choose another GPU with CUDA_VISIBLE_DEVICES',
  };
}

function standing(): Standing {
  const { uid, username } = userInfo();
  return { isRoot: uid === 0, userName: username, isService: process.env.INVOCATION_ID !== undefined };
}

const MARKS: Readonly<Record<Finding['state'], string>> = {
  good: 'ok',
  limited: 'limited',
  absent: 'absent',
  unknown: '?',
};

export function doctorText(findings: readonly Finding[]): string {
  const rows = findings.flatMap(({ topic, state, finding, mend }) => [
    [MARKS[state], topic, finding],
    ...(mend === undefined ? [] : [['', '', `→ ${mend}`]]),
  ]);
  return textTable(rows, ['left', 'left', 'left']);
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
