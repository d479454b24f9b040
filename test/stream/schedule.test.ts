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

  describe('what is said of passes', () => {
    it('is told at once where it is known, and to who waits as soon as it is', async () => {
      const schedule = new Schedule(2, 5);
      schedule.decide(true);
      expect(schedule.chooses(0)).toBe(true);
      // Asked for each layer of the pass.
      expect(schedule.chooses(0)).toBe(true);
      const next = schedule.chooses(1);
      expect(next).toBeInstanceOf(Promise);
      schedule.decide(false);
      expect(await next).toBe(false);
      expect(schedule.chooses(1)).toBe(false);
    });

    it('belongs to its pass, however many are said before one is asked for', () => {
      const schedule = new Schedule(2, 5);
      for (const chooses of [true, false, false, true]) schedule.decide(chooses);
      expect([0, 1, 2, 3].map((pass) => schedule.chooses(pass))).toEqual([true, false, false, true]);
    });

    it('may be expected: whole layers are fetched until it is said, and of no later pass', async () => {
      const schedule = new Schedule(2, 5);
      schedule.decide(true, true);
      expect(schedule.chooses(0)).toBe(true);
      expect(schedule.chooses(1)).toBe(false);
      const after = schedule.chooses(2);
      expect(after).toBeInstanceOf(Promise);
      // Another thing comes than was expected.
      schedule.decide(true);
      expect(schedule.chooses(1)).toBe(true);
      schedule.decide(false);
      expect(await after).toBe(false);
      schedule.decide(false, true);
      schedule.close();
      expect(await schedule.chooses(4)).toBeUndefined();
    });

    it('ends with the schedule, for who waits and for who asks later', async () => {
      const schedule = new Schedule(2, 5);
      const waiting = schedule.chooses(0);
      schedule.close();
      expect(await waiting).toBeUndefined();
      expect(await schedule.chooses(0)).toBeUndefined();
      // A pass that begins all the same wakes nobody twice.
      schedule.decide(true);
      expect(schedule.chooses(0)).toBe(true);
    });

    it('does not come for passes beyond a limit, whose steps then only end', async () => {
      const schedule = new Schedule(1, 5);
      schedule.decide(true);
      const steps = schedule.steps();
      expect(steps.next().value?.passIndex).toBe(0);
      expect(steps.next().value?.passIndex).toBe(1);
      const waiting = schedule.chooses(1);
      schedule.limitPasses(1);
      schedule.close();
      expect(await waiting).toBeUndefined();
      expect(steps.next().done).toBe(true);
    });
  });
});
