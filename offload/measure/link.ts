// Measures the links of devices with memory of their own: from the host to all of them at once, and between them.

import { computeThreads, threadsBeside } from '../backends/processors.js';
import { present } from '../errors.js';
import type { Backend, Device, DeviceEvent } from '../port/backend.js';
import { reached } from '../port/device-failure.js';
import { native } from '../port/native.js';
import type { Memory } from '../port/ops.js';
import { GiB, MiB } from '../units.js';
import { detectHardware, lastCacheBytes } from './hardware.js';
import { median } from './median.js';

export interface LinkMeasurement {
  /** Host to device, of one link while all are busy. */
  readonly linkBytesPerSecond: number;
  /** Between devices; null for one device, and where it is no faster than the way over the host. */
  readonly peerBytesPerSecond: number | null;
}

const LINK_BYTES = 256 * MiB;
const RUNS = 5;

/** Takes some tenths of a second, and memory of host and devices until the backend is closed. */
export async function measureLinks(backend: Backend, sizeBytes = LINK_BYTES): Promise<LinkMeasurement> {
  const { devices } = backend;
  // Page-locked, and so small that locking takes no time worth mentioning.
  const host = backend.allocateHost(sizeBytes, 'control');
  const memories = devices.map((device) => device.allocate(sizeBytes));
  const linkBytesPerSecond = await rateOf(devices, memories, () => host, sizeBytes);
  if (devices.length === 1) return { linkBytesPerSecond, peerBytesPerSecond: null };
  const others = devices.map((device) => device.allocate(sizeBytes));
  const peers = (index: number) => present(others[(index + 1) % others.length], 'a peer');
  const peerBytesPerSecond = await rateOf(devices, memories, peers, sizeBytes);
  return {
    linkBytesPerSecond,
    peerBytesPerSecond: peerBytesPerSecond > linkBytesPerSecond ? peerBytesPerSecond : null,
  };
}

export interface TogetherMeasurement {
  readonly linkBytesPerSecond: number;
  readonly hostBytesPerSecond: number;
}

/** As many times the last caches: what they keep of memory that is read again and again comes at no cost. */
const TIMES_CACHES_READ = 32;
const TIMES_CACHES_COPIED = 16;
const LEAST_READ_BYTES = 2 * GiB;
const LEAST_COPIED_BYTES = GiB;
const COPY_BYTES = 64 * MiB;
/** Copies on their way at once, so that none waits for this thread. */
const COPIES_AHEAD = 4;
/** So long both are at work. */
const READ_MS = 500;

/** How much is read, and how much copies come from: a quarter and an eighth of what is available at most. */
export function togetherBytes(
  cacheBytes: number,
  availableBytes: number,
): { readBytes: number; copiedBytes: number } {
  const readBytes = Math.max(LEAST_READ_BYTES, TIMES_CACHES_READ * cacheBytes);
  const copiedBytes = Math.max(LEAST_COPIED_BYTES, TIMES_CACHES_COPIED * cacheBytes);
  return {
    readBytes: Math.floor(Math.min(readBytes, availableBytes / 4)),
    copiedBytes: Math.floor(Math.min(copiedBytes, availableBytes / 8)),
  };
}

/** What the first device's link and the processor read of DRAM beside each other. Takes some seconds. */
export async function measureTogether(
  backend: Backend,
  {
    copyBytes = COPY_BYTES,
    readMs = READ_MS,
    ...sizes
  }: { copyBytes?: number; readMs?: number; readBytes?: number; copiedBytes?: number } = {},
): Promise<TogetherMeasurement> {
  const { readBytes, copiedBytes } = {
    ...togetherBytes(lastCacheBytes(), detectHardware().dramAvailableBytes),
    ...sizes,
  };
  const device = present(backend.devices[0], 'a device');
  const homes = Array.from({ length: Math.max(1, Math.floor(copiedBytes / copyBytes)) }, () => {
    const home = backend.allocateHost(copyBytes, 'control');
    // Pages that nobody wrote may all be one.
    home.bytes.fill(1);
    return home;
  });
  const memory = device.allocate(copyBytes);
  const threads = Math.max(1, threadsBeside(computeThreads()));
  const events: DeviceEvent[] = [];
  const copy = () => {
    device.fetch.copy(memory, 0, present(homes[events.length % homes.length], 'a home'), 0, copyBytes);
    events.push(device.fetch.record());
  };
  while (events.length < COPIES_AHEAD) copy();
  let ended = false;
  const reading = native()
    .measureReadBandwidthBeside(readBytes, threads, readMs)
    .finally(() => {
      ended = true;
    });
  // What is thrown meanwhile must not leave a rejection that nobody awaits.
  reading.catch(() => undefined);
  while (!ended) {
    await reached(present(events.at(-COPIES_AHEAD), 'a copy'));
    copy();
  }
  const endMs = backend.nowMs();
  const hostBytesPerSecond = await reading;
  await reached(present(events.at(-1), 'a copy'));
  const spans = events.slice(1).map(({ timeMs }, index) => ({
    begin: present(events[index], 'the copy before').timeMs,
    end: timeMs,
  }));
  // Before this time memory was prepared, and the link was alone.
  const beside = spans.filter(({ begin, end }) => begin >= endMs - readMs && end <= endMs);
  const counted = beside.length > 0 ? beside : spans.slice(-COPIES_AHEAD);
  const linkBytesPerSecond = copyBytes / (median(counted.map(({ begin, end }) => end - begin)) / 1e3);
  return { linkBytesPerSecond, hostBytesPerSecond };
}

/** Median of the slowest device's rates, while all copy. */
async function rateOf(
  devices: readonly Device[],
  to: readonly Memory[],
  from: (index: number) => Memory,
  sizeBytes: number,
): Promise<number> {
  const rates: number[] = [];
  for (let run = 0; run <= RUNS; run++) {
    const spans = devices.map(({ fetch }, index): [DeviceEvent, DeviceEvent] => {
      const start = fetch.record();
      fetch.copy(present(to[index], 'memory'), 0, from(index), 0, sizeBytes);
      return [start, fetch.record()];
    });
    await Promise.all(spans.map(([, end]) => reached(end)));
    const slowest = spans.reduce((most, [start, end]) => Math.max(most, end.timeMs - start.timeMs), 0);
    // The first copy touches the pages.
    if (run > 0) rates.push(sizeBytes / (slowest / 1e3));
  }
  return median(rates);
}
