// What benchmarks of the whole runtime on GPUs share: which devices, what their links reach, and prompts.

import {
  type Backend,
  CpuBackend,
  CudaBackend,
  type Memory,
  MiB,
  measureTogether,
  present,
  type TogetherMeasurement,
} from '../../offload/index.js';
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

/** The same devices without an engine. */
export function backendFor(kind: DeviceKind, count: number): Backend {
  const { cpu, cuda } = devicesFor(kind, count);
  return kind === 'cpu' ? new CpuBackend(cpu) : new CudaBackend(cuda);
}

/** An idle device takes this long to come to its full clocks. */
const WARM_UP_MS = 300;

/** Copies of 256 MiB by the device's own clock: from page-locked host memory, and within its memory (read and written). */
export async function measureRates(kind: DeviceKind = 'cuda'): Promise<Rates> {
  const backend = backendFor(kind, 1);
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

/** A virtual device copies with the processor: so much tries the code only. */
const SMALL = { copiedBytes: 64 * MiB, copyBytes: 4 * MiB, readBytes: 64 * MiB, readMs: 100 };

/** What the link yields, and a plain reader beside it: both ask the host's memory at once. */
export async function measureBeside(kind: DeviceKind): Promise<TogetherMeasurement> {
  const backend = backendFor(kind, 1);
  try {
    return await measureTogether(backend, kind === 'cuda' ? {} : SMALL);
  } finally {
    await backend.close();
  }
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
