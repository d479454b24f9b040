// What drives yield: said by the user, remembered from an earlier start or run, or measured once with a file.

import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import {
  type DriveMeasurement,
  type DriveReader,
  formatRate,
  type HostPurpose,
  MiB,
  measureDrive,
  NativeHost,
} from '../../offload/index.js';
import { isJsonObject } from '../files/json-file.js';
import { makeFolder, removeEmpty } from '../files/make-folder.js';
import { writeProbeFile } from '../files/probe-file.js';
import { fileSystemOf } from '../staging/stripe-record.js';
import { ownCache, type Variables } from './places.js';

/** A folder on a drive, and what the drive yields where the user says it. */
export interface DriveWish {
  readonly folder: string;
  readonly bytesPerSecond: number | undefined;
}

export interface DriveRate {
  readonly bytesPerSecond: number;
  /** From asking for a small piece until it is there. */
  readonly latencyMs: number;
}

/** Where nobody has measured it: an NVMe drive's. */
export const USUAL_LATENCY_MS = 0.1;

export interface RateOptions {
  readonly env: Variables;
  readonly signal?: AbortSignal | undefined;
  readonly log?: ((message: string) => void) | undefined;
}

const PROBE = {
  sizeBytes: 256 * MiB,
  advice: 'say what the drive yields, as in --nvme_offload_path DIR:2.5GB/s',
};
const MEASURE_MS = 1500;
const FORMAT = 'zero-inference drives 1';

/** Rejects with NO_SPACE or WRITE_FAILED where nothing is known of the drive and no file can be written to measure it. */
export async function driveRate(wish: DriveWish, options: RateOptions): Promise<DriveRate> {
  const { bytesPerSecond: said } = wish;
  if (said !== undefined) return { bytesPerSecond: said, latencyMs: USUAL_LATENCY_MS };
  const remembered = await rememberedRate(wish.folder, options.env);
  if (remembered !== undefined) return remembered;
  const { bytesPerSecond, latencyMs } = await measureFolder(wish.folder, options.signal);
  options.log?.(`${wish.folder} yields ${formatRate(bytesPerSecond)}, measured now and remembered`);
  await rememberRate(wish.folder, { bytesPerSecond, latencyMs }, options.env);
  return { bytesPerSecond, latencyMs };
}

/** With a file of random bytes that is gone afterwards. */
export async function measureFolder(folder: string, signal?: AbortSignal): Promise<DriveMeasurement> {
  const made = await makeFolder(resolve(folder));
  try {
    const file = await writeProbeFile(folder, PROBE, signal);
    const host = new NativeHost();
    try {
      return await measureDrive(readerOf(host), `/proc/self/fd/${file.fd}`, MEASURE_MS);
    } finally {
      await Promise.all([file.close(), host.close()]);
    }
  } finally {
    await removeEmpty(made);
  }
}

function readerOf(host: NativeHost): DriveReader {
  return {
    allocateHost: (sizeBytes: number, purpose: HostPurpose) => host.allocate(sizeBytes, purpose),
    nowMs: () => performance.now(),
    openFile: (path) => host.openFile(path),
    read: (requests, into, urgent) => host.read(requests, into, urgent),
  };
}

interface Remembered extends DriveRate {
  readonly folder: string;
  readonly fileSystem: string;
}

/** Undefined where nothing is known of what is mounted there now. */
export async function rememberedRate(folder: string, env: Variables): Promise<DriveRate | undefined> {
  const found = (await readRates(env)).find((one) => one.folder === resolve(folder));
  if (!found || found.fileSystem !== (await fileSystemOf(resolve(folder)))) return undefined;
  return found;
}

/** Where it cannot be written, it is measured again. */
export async function rememberRate(folder: string, rate: DriveRate, env: Variables): Promise<void> {
  try {
    const path = resolve(folder);
    const others = (await readRates(env)).filter((one) => one.folder !== path);
    const drives = [...others, { folder: path, fileSystem: await fileSystemOf(path), ...rate }];
    await mkdir(ownCache(env), { recursive: true });
    const partial = `${ratesPath(env)}.${process.pid}.partial`;
    const file = await open(partial, 'w');
    try {
      await file.writeFile(`${JSON.stringify({ format: FORMAT, drives }, null, 2)}\n`);
    } finally {
      await file.close();
    }
    await rename(partial, ratesPath(env));
  } catch {
    // said above
  }
}

function ratesPath(env: Variables): string {
  return join(ownCache(env), 'drives.json');
}

/** What is no record of ours says nothing. */
async function readRates(env: Variables): Promise<Remembered[]> {
  try {
    const json: unknown = JSON.parse(await readFile(ratesPath(env), 'utf8'));
    if (!isJsonObject(json) || json.format !== FORMAT || !Array.isArray(json.drives)) return [];
    return json.drives.flatMap((one): Remembered[] => {
      if (!isJsonObject(one)) return [];
      const { folder, fileSystem, bytesPerSecond, latencyMs } = one;
      const known = typeof folder === 'string' && typeof fileSystem === 'string';
      if (!known || typeof bytesPerSecond !== 'number' || !(bytesPerSecond > 0)) return [];
      return typeof latencyMs === 'number' ? [{ folder, fileSystem, bytesPerSecond, latencyMs }] : [];
    });
  } catch {
    return [];
  }
}
