// What the drive yields alone: the same layers through the same ring and kind of buffers, with no compute beside it.

import type { Backend, HostMemory } from './backend.js';
import { present } from './errors.js';
import type { Plan } from './plan.js';
import type { WeightSource } from './weight-source.js';

export interface ReadLimit {
  readonly bytes: number;
  readonly durationMs: number;
  readonly bytesPerSecond: number;
}

/**
 * Reads the streamed layers in the order of the schedule until `maxMs` have passed or all were read.
 * @param buffers as many reads of layers overlap as there are buffers
 */
export async function measureReadLimit(
  backend: Backend,
  source: WeightSource,
  plan: Plan,
  buffers: readonly HostMemory[],
  maxMs: number,
): Promise<ReadLimit> {
  const layers = plan.layers.filter(({ tier }) => tier === 'nvme');
  const startMs = backend.nowMs();
  let next = 0;
  let bytes = 0;
  const reader = async (buffer: HostMemory) => {
    while (next < layers.length && backend.nowMs() - startMs < maxMs) {
      const { layout } = present(layers[next++], 'layer');
      const span = await source.readLayer(layout.host, buffer);
      bytes += span.bytes;
    }
  };
  await Promise.all(buffers.map(reader));
  const durationMs = backend.nowMs() - startMs;
  return { bytes, durationMs, bytesPerSecond: (bytes / durationMs) * 1e3 };
}
