// Planted bugs around rows of embedding tables: those that leave too early, and those that are read ahead.

import { expect, it } from 'vitest';
import type { Backend } from '../../offload/port/backend.js';
import type { Memory } from '../../offload/port/ops.js';
import { RowCache, type RowLease } from '../../offload/stream/row-cache.js';
import { simulated } from '../simulator/memory.js';
import { caught, STREAMING } from './caught.js';
import { withPlants } from './plants.js';
import type { Scenario } from './scenario.js';
import type { WorldOptions } from './world.js';

it('rows of the embedding before the kernel that looks them up', async () => {
  const original = RowCache.prototype.lookup;
  RowCache.prototype.lookup = async function (this: RowCache, rows): Promise<RowLease> {
    const lease = await original.call(this, rows);
    return { ...lease, release: () => lease.release() };
  };
  try {
    const { share } = await caught({ ...STREAMING, deviceCount: 4, passes: 5 });
    expect(share).toBeGreaterThan(0.6);
  } finally {
    RowCache.prototype.lookup = original;
  }
});

it('nobody waits at the end of a session for rows that are read ahead', async () => {
  const original = RowCache.prototype.idle;
  RowCache.prototype.idle = async () => undefined;
  const alter = (scenario: Scenario): Scenario => {
    const rowCacheBytes = scenario.plan.rowCacheBytes.map((bytes) => 8 * bytes);
    return { ...scenario, plan: { ...scenario.plan, rowCacheBytes } };
  };
  // What is not the first read of a table comes late.
  const wrap: WorldOptions['wrap'] = (backend) => {
    const known = new Set<Memory>();
    const read: Backend['read'] = async (requests, into) => {
      const late = simulated(into).purpose === 'control' && known.has(into);
      known.add(into);
      for (let again = late ? 30 : 0; again > 0; again--) await backend.read(requests, into);
      return backend.read(requests, into);
    };
    return withPlants(backend, {}, { read });
  };
  try {
    const { share, by } = await caught({ ...STREAMING, deviceCount: 1, passes: 1, alter, wrap });
    // Half of the models have a table of positions.
    expect(share).toBeGreaterThan(0.15);
    expect([...by]).toEqual(['LeakError']);
  } finally {
    RowCache.prototype.idle = original;
  }
});
