// Measures the links of devices with memory of their own: from the host to all of them at once, and between them.

import { computeThreads, threadsBeside } from '../backends/processors.js';
import { present } from '../errors.js';
import type { Backend, Device, DeviceEvent } from '../port/backend.js';
import { reached } from '../port/device-failure.js';
import { native } from '../port/native.js';
import type { Memory } from '../port/ops.js';
import { GiB, MiB } from '../units.js';
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

const READ_BYTES = 2 * GiB;
/** So much that copies come from memory: the reader beside them fills caches. */
const COPIED_BYTES = 512 * MiB;
const COPY_BYTES = 64 * MiB;
/** So long both are at work. */
const READ_MS = 500;
/** Copies go on while the processor's part is prepared, which takes a second or two. */
const COPY_MS = 3000;
const MOST_COPIES = 5000;

/** What the first device's link and the processor read of DRAM beside each other. Blocks for some seconds. */
export async function measureTogether(
  backend: Backend,
  {
    copiedBytes = COPIED_BYTES,
    copyBytes = COPY_BYTES,
    readBytes = READ_BYTES,
    copyMs = COPY_MS,
    readMs = READ_MS,
  } = {},
): Promise<TogetherMeasurement> {
  const device = present(backend.devices[0], 'a device');
  const host = backend.allocateHost(copiedBytes, 'control');
  const memory = device.allocate(copyBytes);
  // Pages that nobody wrote may all be one.
  host.bytes.fill(1);
  let copies = 0;
  const copy = () => {
    const from = (copies++ % Math.max(1, Math.floor(copiedBytes / copyBytes))) * copyBytes;
    device.fetch.copy(memory, 0, host, from, copyBytes);
    return device.fetch.record();
  };
  const first = copy();
  const second = copy();
  await reached(second);
  const events = [second];
  const count = Math.min(MOST_COPIES, Math.ceil(copyMs / Math.max(1e-3, second.timeMs - first.timeMs)));
  while (events.length < count) events.push(copy());
  const threads = Math.max(1, threadsBeside(computeThreads()));
  const hostBytesPerSecond = native().measureReadBandwidth(readBytes, threads, readMs);
  // Before this time memory was prepared, and the link was alone.
  const endMs = backend.nowMs();
  await reached(present(events.at(-1), 'a copy'));
  const spans = events.flatMap(({ timeMs }, index) => {
    const before = events[index - 1]?.timeMs ?? Number.NaN;
    return before >= endMs - readMs && timeMs <= endMs ? [timeMs - before] : [];
  });
  const all = spans.length > 0 ? spans : [second.timeMs - first.timeMs];
  return { linkBytesPerSecond: copyBytes / (median(all) / 1e3), hostBytesPerSecond };
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
