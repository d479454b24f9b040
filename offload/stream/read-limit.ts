// What the drive yields alone: the same layers through the same ring and kind of buffers, with no compute beside it.

import { present } from '../errors.js';
import type { Plan } from '../plan/plan.js';
import type { Backend, HostMemory } from '../port/backend.js';
import type { WeightSource } from './weight-source.js';

export interface ReadLimit {
  readonly bytes: number;
  readonly durationMs: number;
  readonly bytesPerSecond: number;
}

/** Below this a rate says little, so the layers of small models are read again and again. */
const MIN_MS = 200;

export interface ReadTrial {
  readonly backend: Backend;
  readonly source: WeightSource;
  readonly plan: Plan;
  /** As many reads of layers overlap as there are buffers. */
  readonly buffers: readonly HostMemory[];
  readonly maxMs: number;
}

/**
 * Reads the streamed layers in the order of the schedule until all were read or `maxMs` have passed, but for
 * MIN_MS at least.
 */
export async function measureReadLimit(trial: ReadTrial): Promise<ReadLimit> {
  const { backend, source, plan, buffers, maxMs } = trial;
  const layers = plan.layers.filter(({ tier }) => tier === 'nvme');
  const startMs = backend.nowMs();
  let next = 0;
  let bytes = 0;
  const reader = async (buffer: HostMemory) => {
    for (;;) {
      const elapsedMs = backend.nowMs() - startMs;
      if (elapsedMs >= MIN_MS && (next >= layers.length || elapsedMs >= maxMs)) return;
      const { layout } = present(layers[next++ % layers.length], 'layer');
      const span = await source.readLayer(layout.host, buffer);
      bytes += span.bytes;
    }
  };
  await Promise.all(buffers.map(reader));
  const durationMs = backend.nowMs() - startMs;
  return { bytes, durationMs, bytesPerSecond: (bytes / durationMs) * 1e3 };
}
