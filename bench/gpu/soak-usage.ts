// What a process holds, on its host and on its GPUs, and whether that grew between an early and a late stretch of a run.

import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { KiB, MiB, present } from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import { median } from '../common.js';

/** In bytes but for `files`, `threads` and `mappings`; `device` is absent between its measurements, and without a GPU. */
export interface Usage {
  readonly rss: number;
  /** Without pages of files. */
  readonly anonymous: number;
  /** Page-locked, as far as the system counts it: the ring's buffers and threads' rings. */
  readonly locked: number;
  readonly heap: number;
  readonly files: number;
  readonly threads: number;
  readonly mappings: number;
  readonly device?: number;
}

export interface UsageSample extends Usage {
  /** How much of the run was over: 0 … 1. */
  readonly at: number;
}

const FIELDS = [
  'at',
  'rss',
  'anonymous',
  'locked',
  'heap',
  'files',
  'threads',
  'mappings',
  'device',
] as const;

/** Samples outside of JavaScript's heap, which they would make grow. */
export class UsageLog {
  #values = new Float64Array(FIELDS.length * 1024);
  #count = 0;

  add(sample: UsageSample): void {
    const from = this.#count * FIELDS.length;
    if (from === this.#values.length) {
      const larger = new Float64Array(2 * this.#values.length);
      larger.set(this.#values);
      this.#values = larger;
    }
    FIELDS.forEach((field, index) => {
      this.#values[from + index] = sample[field] ?? Number.NaN;
    });
    this.#count++;
  }

  samples(): UsageSample[] {
    return Array.from({ length: this.#count }, (_, index) => {
      const from = index * FIELDS.length;
      const entries = FIELDS.map((field, at) => [field, this.#values[from + at]] as const);
      const measured = entries.filter(([, value]) => !Number.isNaN(value));
      return Object.fromEntries(measured) as unknown as UsageSample;
    });
  }
}

/** How the device's bytes are counted: this process's own by the driver, or all that is taken on the GPUs. */
export type DeviceCount = 'own' | 'all' | 'none';

export class UsageProbe {
  readonly #gpus: readonly number[];
  readonly #everyMs: number;
  readonly #collect: () => void;
  #count: DeviceCount = 'none';
  #nextMs = 0;

  private constructor(gpus: readonly number[], everyMs: number) {
    this.#gpus = gpus;
    this.#everyMs = everyMs;
    setFlagsFromString('--expose-gc');
    this.#collect = runInNewContext('gc') as () => void;
  }

  /** @param everyMs how often the driver is asked: it answers slowly */
  static async open(gpus: readonly number[], everyMs: number): Promise<UsageProbe> {
    const probe = new UsageProbe(gpus, everyMs);
    if (gpus.length === 0) return probe;
    // Makes a context, so that the process is one of those that the driver lists, where it lists any.
    for (const gpu of gpus) native().cudaFreeBytes(gpu);
    const own = await ownDeviceBytes();
    probe.#count = own === undefined ? 'all' : 'own';
    return probe;
  }

  get deviceCount(): DeviceCount {
    return this.#count;
  }

  /** After a collection, so that nothing counts that only waits for one. */
  async measure(): Promise<Usage> {
    this.#collect();
    // Finalizers, which give native memory back, run after the collection.
    await new Promise((resolve) => setImmediate(resolve));
    const device = await this.#deviceBytes();
    const status = readFileSync('/proc/self/status', 'utf8');
    const field = (name: string) =>
      Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? Number.NaN);
    return {
      rss: field('VmRSS') * KiB,
      anonymous: field('RssAnon') * KiB,
      locked: (field('VmLck') + field('VmPin')) * KiB,
      heap: process.memoryUsage().heapUsed,
      files: readdirSync('/proc/self/fd').length,
      threads: field('Threads'),
      mappings: readFileSync('/proc/self/maps', 'utf8').split('\n').length - 1,
      ...(device === undefined ? {} : { device }),
    };
  }

  async #deviceBytes(): Promise<number | undefined> {
    if (this.#count === 'none' || performance.now() < this.#nextMs) return undefined;
    this.#nextMs = performance.now() + this.#everyMs;
    if (this.#count === 'own') return ownDeviceBytes();
    const { devices } = native().cudaStatus();
    return this.#gpus.reduce(
      (sum, gpu) => sum + present(devices[gpu], 'GPU').totalBytes - native().cudaFreeBytes(gpu),
      0,
    );
  }
}

/** On all GPUs together; undefined where nvidia-smi is absent, fails, or does not know processes, as in some containers. */
function ownDeviceBytes(): Promise<number | undefined> {
  const query = ['--query-compute-apps=pid,used_memory', '--format=csv,noheader,nounits'];
  return new Promise((resolve) => {
    execFile('nvidia-smi', query, (error, stdout) => {
      const lines = error ? [] : stdout.split('\n').map((line) => line.split(',').map(Number));
      const own = lines
        .filter(([pid, mib]) => pid === process.pid && Number.isFinite(mib))
        .map(([, mib = 0]) => mib * MiB);
      resolve(own.length === 0 ? undefined : own.reduce((sum, bytes) => sum + bytes, 0));
    });
  });
}

export interface Limit {
  readonly of: keyof Usage;
  /** Growth that is no leak. */
  readonly tolerance: number;
}

/**
 * Two of the driver's units of device memory: a kernel first used late is loaded into one. Host: what the allocators
 * of C and JavaScript keep differs by about that between two stretches without a leak.
 */
export const LIMITS: readonly Limit[] = [
  { of: 'device', tolerance: 4 * MiB },
  { of: 'rss', tolerance: 24 * MiB },
  { of: 'locked', tolerance: 0 },
  { of: 'heap', tolerance: 2 * MiB },
  { of: 'files', tolerance: 0 },
  { of: 'threads', tolerance: 0 },
];

export interface Growth extends Limit {
  readonly early: number;
  readonly late: number;
  readonly grew: boolean;
}

/** From here on, all that happens has happened before in the same run. */
export const SECOND_LAP = 1 / 2;
/** The stretches that are compared; what comes before the first is warming up. */
export const EARLY = [SECOND_LAP, 2 / 3] as const;
export const LATE = [5 / 6, 1] as const;

/** Medians of both stretches. Throws where one has no samples of something that was measured at all. */
export function growthOf(samples: readonly UsageSample[], limits = LIMITS): Growth[] {
  return limits.flatMap((limit) => {
    const measured = samples.filter((sample) => sample[limit.of] !== undefined);
    if (measured.length === 0) return [];
    const middle = ([from, to]: readonly [number, number]) => {
      const values = measured.flatMap((sample) =>
        sample.at >= from && sample.at <= to ? (sample[limit.of] ?? []) : [],
      );
      if (values.length === 0) throw new Error(`the run was too short to compare its use of ${limit.of}`);
      return median(values);
    };
    const [early, late] = [middle(EARLY), middle(LATE)];
    return [{ ...limit, early, late, grew: !(late - early <= limit.tolerance) }];
  });
}
