// What benchmarks of the whole runtime on GPUs share: which devices, what their links reach, and prompts.

import {
  type Backend,
  CpuBackend,
  CudaBackend,
  GiB,
  type Memory,
  MiB,
  present,
} from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import type { DeviceKind, EngineOptions } from '../../src/engine/engine-options.js';
import type { GenerationRequest } from '../../src/engine/request.js';
import { median } from '../common.js';

export interface Rates {
  readonly linkBytesPerSecond: number;
  readonly memoryBytesPerSecond: number;
}

/** Devices for an engine: GPUs, or, to try a benchmark without one, virtual devices of the CPU. */
export function devicesFor(kind: DeviceKind, count: number): Pick<EngineOptions, 'device' | 'cuda' | 'cpu'> {
  if (kind === 'cpu') return { device: 'cpu', cpu: { virtualDevices: count } };
  return { device: 'cuda', cuda: { devices: Array.from({ length: count }, (_, index) => index) } };
}

/** An idle device takes this long to come to its full clocks. */
const WARM_UP_MS = 300;

/** Copies of 256 MiB by the device's own clock: from page-locked host memory, and within its memory (read and written). */
export async function measureRates(kind: DeviceKind = 'cuda'): Promise<Rates> {
  const backend: Backend = kind === 'cuda' ? new CudaBackend() : new CpuBackend({ virtualDevices: 1 });
  const device = present(backend.devices[0], 'device');
  const sizeBytes = 256 * MiB;
  const host = backend.allocateHost(sizeBytes, 'control');
  const memory = device.allocate(sizeBytes);
  const other = device.allocate(sizeBytes);
  const rate = async (from: Memory, bytes: number) => {
    const rates: number[] = [];
    const warmMs = performance.now() + WARM_UP_MS;
    while (rates.length < 8) {
      const start = device.fetch.record();
      device.fetch.copy(memory, 0, from, 0, sizeBytes);
      const end = device.fetch.record();
      await end.reached();
      if (performance.now() > warmMs) rates.push(bytes / ((end.timeMs - start.timeMs) / 1e3));
    }
    return median(rates);
  };
  const linkBytesPerSecond = await rate(host, sizeBytes);
  const memoryBytesPerSecond = await rate(other, 2 * sizeBytes);
  await backend.close();
  return { linkBytesPerSecond, memoryBytesPerSecond };
}

export interface TogetherRates {
  readonly linkBytesPerSecond: number;
  readonly readBytesPerSecond: number;
}

const READER_THREADS = 12;
const READ_BYTES = 4 * GiB;
const COPY_BYTES = 64 * MiB;
const COPIED_MEMORIES = 64;
/** Some two seconds of a link of 54 GB/s. */
const COPIES = 1600;

/** What the link yields, and a plain reader of the same memory beside it: both ask the host's memory at once. */
export async function measureTogether(kind: DeviceKind = 'cuda'): Promise<TogetherRates> {
  const backend: Backend = kind === 'cuda' ? new CudaBackend() : new CpuBackend({ virtualDevices: 1 });
  const device = present(backend.devices[0], 'device');
  // Copies of one small memory would come out of the processor's cache.
  const host = backend.allocateHost(COPIED_MEMORIES * COPY_BYTES, 'control');
  const memory = device.allocate(COPY_BYTES);
  host.bytes.fill(1);
  const ends = [device.fetch.record()];
  for (let copy = 0; copy < COPIES; copy++) {
    device.fetch.copy(memory, 0, host, (copy % COPIED_MEMORIES) * COPY_BYTES, COPY_BYTES);
    ends.push(device.fetch.record());
  }
  // Blocks this thread, while the device goes on.
  const readBytesPerSecond = native().measureReadBandwidth(READ_BYTES, READER_THREADS);
  const copiedWhileReading = ends.filter(({ timeMs }) => !Number.isNaN(timeMs)).length;
  await ends.at(-1)?.reached();
  const spent = ends.slice(1).map((end, index) => end.timeMs - (ends[index]?.timeMs ?? Number.NaN));
  await backend.close();
  const beside = spent.slice(0, copiedWhileReading).sort((a, b) => a - b);
  // The reader empties caches for a part of the time, in which the link is alone.
  const slow = present(beside[Math.floor(0.75 * beside.length)], 'a copy beside the reader');
  return { readBytesPerSecond, linkBytesPerSecond: COPY_BYTES / (slow / 1e3) };
}

/** Prompts of which no two are alike, in ids that a vocabulary of that size has. */
export function requests(count: number, tokens: number, vocabulary: number): GenerationRequest[] {
  const first = Math.min(1000, vocabulary >> 1);
  const ids = Math.min(20000, vocabulary - first);
  return Array.from({ length: count }, (_, index) => ({
    index,
    promptTokens: Int32Array.from({ length: tokens }, (__, at) => first + ((index * 131 + at * 7919) % ids)),
  }));
}
