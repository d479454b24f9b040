// Short waits are looked at again and again, long ones are slept through, and both end as the device says.

import { describe, expect, it } from 'vitest';
import { ShortWaits } from '../../offload/backends/short-waits.js';

let nowMs = 0;
const open = () => new ShortWaits(() => nowMs);
const lasting = (ms: number) => async () => {
  nowMs += ms;
};
const awake = () => Promise.reject(new Error('slept'));
/** A look that finds nothing, a millisecond later. */
const inVain = () => ++nowMs < 0;

describe('a short wait', () => {
  it('ends when a look finds it done, while other work goes on, and nobody sleeps', async () => {
    let [looks, others] = [0, 0];
    const other = () => {
      others++;
      if (looks < 50) setImmediate(other);
    };
    setImmediate(other);
    await open().wait(() => ++looks === 50, awake);
    expect(looks).toBe(50);
    expect(others).toBeGreaterThan(40);
  });

  it('that is over at once is looked at once', async () => {
    let looks = 0;
    await open().wait(() => ++looks > 0, awake);
    expect(looks).toBe(1);
  });

  it('that does not end soon is slept through, and fails as the sleep does', async () => {
    await expect(open().wait(inVain, awake)).rejects.toThrow('slept');
    await open().wait(inVain, lasting(1));
  });

  it('is not looked at any more where waits have become long, until they are short again', async () => {
    const waits = open();
    await waits.wait(inVain, lasting(60));
    let looks = 0;
    const third = () => ++looks === 3;
    await waits.wait(third, lasting(0));
    expect(looks).toBe(1);
    for (let round = 0; round < 5; round++) await waits.wait(() => true, awake);
    looks = 0;
    await waits.wait(third, awake);
    expect(looks).toBe(3);
  });
});
