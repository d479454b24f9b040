// Planted bugs in what moves keys and values between DRAM and a device.

import { describe, expect, it } from 'vitest';
import { caught, KEEPING, nth, streams } from './caught.js';
import type { StreamPlants } from './plants.js';

describe('keys and values between DRAM and a device', () => {
  const dropped = async (dropWait: Required<StreamPlants>['dropWait']) =>
    (await caught({ ...KEEPING, ...streams(() => ({ dropWait })) })).share;

  it('compute does not wait for them', async () => {
    expect(await dropped((on, event) => on.kind === 'compute' && event.kind === 'load')).toBeGreaterThan(0.6);
  });

  it('they are stored before compute has made them', async () => {
    expect(await dropped((on, event) => on.kind === 'store' && event.kind === 'compute')).toBeGreaterThan(
      0.8,
    );
  });

  it('a buffer is filled, or written by compute, before its former content is stored', async () => {
    expect(await dropped((on, event) => on.kind !== 'store' && event.kind === 'store')).toBeGreaterThan(0.5);
  });

  it.each(['load', 'store'] as const)('a %s leaves out one run of pages', async (kind) => {
    const plants = (): StreamPlants => {
      const chosen = nth(3);
      return { dropCopy: (on) => on.kind === kind && chosen() };
    };
    const { share } = await caught({ ...KEEPING, ...streams(plants) });
    expect(share).toBeGreaterThan(0.5);
  });

  it('pages are loaded before the micro-batch before has stored them', async () => {
    // Several micro-batches of one sequence in a pass: only the wait for this pass's stores keeps them in order.
    let stores = 0;
    const dropWait: StreamPlants['dropWait'] = (on, event) =>
      on.kind === 'load' && event.kind === 'store' && ++stores % 2 === 0;
    expect(await dropped(dropWait)).toBeGreaterThan(0.2);
  });
});
