// The steps of all passes: cyclic, in order, and shortened only where nothing has begun.

import { describe, expect, it } from 'vitest';
import { Schedule } from '../../offload/stream/schedule.js';

describe('Schedule', () => {
  it('follows the last layer of a pass with the first of the next', () => {
    const steps = [...new Schedule(3, 2).steps()];
    expect(steps.map(({ passIndex, layerIndex }) => [passIndex, layerIndex])).toEqual([
      [0, 0],
      [0, 1],
      [0, 2],
      [1, 0],
      [1, 1],
      [1, 2],
    ]);
    expect(steps.map(({ position }) => position)).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it('has no steps without passes', () => {
    expect([...new Schedule(3, 0).steps()]).toEqual([]);
  });

  it('stops at a limit that is set while it runs, in the middle of a pass that was only fetched ahead', () => {
    const schedule = new Schedule(4, 10);
    const seen: number[] = [];
    for (const { position } of schedule.steps()) {
      seen.push(position);
      if (position === 5) schedule.limitPasses(1);
    }
    expect(seen).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it('completes the last pass under a limit', () => {
    const schedule = new Schedule(4, 10);
    const seen: number[] = [];
    for (const { position } of schedule.steps()) {
      seen.push(position);
      if (position === 5) schedule.limitPasses(2);
    }
    expect(seen).toHaveLength(8);
  });

  it('never grows again', () => {
    const schedule = new Schedule(2, 5);
    schedule.limitPasses(3);
    schedule.limitPasses(9);
    expect(schedule.passLimit).toBe(3);
  });

  it('needs a layer', () => {
    expect(() => new Schedule(0, 1)).toThrow(/has layers/);
  });
});
