// Looks at this machine as the runtime would use it: findings with how to mend them, and its description for plans.

import { randomFillSync, randomUUID } from 'node:crypto';
import { constants, existsSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { availableParallelism, cpus, release, userInfo } from 'node:os';
import { join } from 'node:path';
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
  measureDrive,
  OperatingError,
  probeDirect,
  probeIo,
  roundDown,
} from '../../offload/index.js';
import { chooseDevice } from '../engine/engine-options.js';
import { reason, systemCode } from '../files/json-file.js';
import { textTable } from '../report/text-table.js';
import {
  checkCuda,
  checkDirect,
  checkHugePages,
  checkInstructionSets,
  checkIoUring,
  checkMemory,
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

/** A temporary file is at most this large, and at most a quarter of the free space. */
const PROBE_FILE_BYTES = 512 * MiB;
const SMALLEST_PROBE_BYTES = 16 * MiB;
const DRIVE_MS = 3000;

const SYSTEM: System = { readText, exists: existsSync };

/**
 * @param path a file to read, or a folder to write a temporary file in; undefined: the drive is left alone
 * Rejects with NOT_FOUND, NO_SPACE or WRITE_FAILED for what is wrong with the path.
 */
export async function diagnose(path: string | undefined, signal: AbortSignal): Promise<Diagnosis> {
  const io = await probeIo();
  const sets = instructionSets();
  const findings = [
    checkProcessor(cpus()[0]?.model.trim() ?? 'processor', cpus().length, availableParallelism()),
    checkInstructionSets(sets),
    checkMemory(detectHardware()),
    checkHugePages(SYSTEM),
    checkIoUring(io, release(), SYSTEM),
    checkRegistration(io, SYSTEM, standing()),
  ];
  const drive = path === undefined ? undefined : await onFile(path, signal, findings);
  findings.push(driveFinding(path, drive));
  signal.throwIfAborted();
  const cuda = cudaStatus();
  const device = chooseDevice(cuda);
  const machine =
    sets.length > 0 || device === 'cuda'
      ? await measureMachine({
          weightTypes: ['bf16', 'f16', 'f32'],
          device,
          ...(drive ? { drive } : {}),
        })
      : undefined;
  if (machine) findings.push(...rateFindings(machine));
  findings.push(checkCuda(SYSTEM, process.env.LD_LIBRARY_PATH));
  if (device === 'cuda') findings.push(gpuFinding(cuda));
  else if (cuda.present) findings.push(unusableGpu(cuda));
  return { findings, machine };
}

async function onFile(path: string, signal: AbortSignal, findings: Finding[]): Promise<DriveMeasurement> {
  if (!statOf(path).isDirectory()) return readFile(path, path, findings);
  const file = await writeProbeFile(path, signal);
  try {
    return await readFile(`/proc/self/fd/${file.fd}`, path, findings);
  } finally {
    await file.close();
  }
}

async function readFile(file: string, told: string, findings: Finding[]): Promise<DriveMeasurement> {
  const { direct, note } = await probeDirect(file);
  findings.push(checkDirect(told, direct, note));
  const backend = new CpuBackend();
  try {
    return await measureDrive(backend, file, DRIVE_MS);
  } finally {
    await backend.close();
  }
}

function statOf(path: string) {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found) return found;
  throw new OperatingError('NOT_FOUND', `--path is ${path}, and there is no such file or folder`);
}

/** Linux's number on x86-64, which Node does not tell. */
const O_TMPFILE = constants.O_DIRECTORY | 0o20000000;

/** A file without a name: whatever ends this process, its bytes are free again. */
async function openNameless(folder: string): Promise<FileHandle> {
  try {
    return await open(folder, constants.O_RDWR | O_TMPFILE, 0o600);
  } catch (error) {
    if (!['EOPNOTSUPP', 'EISDIR', 'EINVAL', 'ENOENT'].includes(systemCode(error) ?? '')) throw error;
  }
  // Some file systems, such as a network's, give every file a name from the beginning.
  const path = join(folder, `.zero-inference-doctor-${randomUUID()}`);
  const file = await open(path, 'wx+', 0o600);
  await unlink(path);
  return file;
}

/** Random bytes, so that no drive can compress them; flushed, so that reads find them on the drive. */
async function writeProbeFile(folder: string, signal: AbortSignal): Promise<FileHandle> {
  const { bavail, bsize } = statfsSync(folder);
  const sizeBytes = roundDown(Math.min(PROBE_FILE_BYTES, (bavail * bsize) / 4), MiB);
  if (sizeBytes < SMALLEST_PROBE_BYTES) {
    throw new OperatingError(
      'NO_SPACE',
      `${folder} has ${formatBytes(bavail * bsize)} free, too little to measure the drive with a file: free some, or give --path a file`,
    );
  }
  let file: FileHandle | undefined;
  try {
    file = await openNameless(folder);
    const chunk = randomFillSync(Buffer.allocUnsafe(8 * MiB));
    for (let written = 0; written < sizeBytes; written += chunk.length) {
      signal.throwIfAborted();
      // No two chunks are alike: some drives store what they have seen before only once.
      chunk.writeUInt32LE(written / MiB, 0);
      await file.write(chunk, 0, Math.min(chunk.length, sizeBytes - written));
    }
    await file.sync();
    return file;
  } catch (error) {
    await file?.close();
    if (signal.aborted) throw error;
    throw writeFailed(folder, error);
  }
}

function writeFailed(folder: string, error: unknown): OperatingError {
  const full = systemCode(error) === 'ENOSPC';
  return new OperatingError(
    full ? 'NO_SPACE' : 'WRITE_FAILED',
    `no temporary file can be written in ${folder} (${reason(error)}): give --path another folder, or a file to read`,
    { cause: error },
  );
}

function driveFinding(path: string | undefined, drive: DriveMeasurement | undefined): Finding {
  const topic = 'drive';
  if (!drive) {
    return {
      topic,
      state: 'unknown',
      finding: 'not measured',
      mend: 'give --path FOLDER, or --path FILE to read a file that is there',
    };
  }
  const { bytesPerSecond, latencyMs, bytes } = drive;
  return {
    topic,
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
