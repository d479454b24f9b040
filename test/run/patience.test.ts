// Devices that wait for each other are given up when they get nowhere, and only then: on a clock that the test moves.

import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { DeviceEvent } from '../../offload/index.js';
import { Patience } from '../../offload/run/patience.js';

const PATIENCE_MS = 1000;

interface Point {
  timeMs: number;
}

function point(): DeviceEvent & Point {
  return { timeMs: Number.NaN, reached: () => new Promise(() => undefined) } as DeviceEvent & Point;
}

const layerOf = (layer: string, ready: DeviceEvent, ends: readonly DeviceEvent[]) => ({
  layer,
  devices: ends.map((done, index) => ({ name: `gpu:${index}`, ready: [ready], done })),
});

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

it('a pass that takes long is left alone while layers are computed, and while they are on their way', async () => {
  let gaveUp = 0;
  const patience = new Patience(PATIENCE_MS, () => gaveUp++);
  let end: (text: string) => void = () => undefined;
  const pass = patience.during(() => new Promise<string>((resolve) => (end = resolve)));
  for (let layer = 0; layer < 20; layer++) {
    const [ready, one, two] = [point(), point(), point()];
    patience.queued(layerOf(`block ${layer}`, ready, [one, two]));
    await vi.advanceTimersByTimeAsync(3 * PATIENCE_MS); // a slow drive
    ready.timeMs = 1;
    await vi.advanceTimersByTimeAsync(0.7 * PATIENCE_MS);
    one.timeMs = 1;
    two.timeMs = 1;
  }
  await vi.advanceTimersByTimeAsync(10 * PATIENCE_MS); // whoever reads the results
  end('text');
  expect(await pass).toBe('text');
  expect(gaveUp).toBe(0);
});

it('devices that get nowhere are named, once, and no pass begins any more', async () => {
  let gaveUp = 0;
  const patience = new Patience(PATIENCE_MS, () => gaveUp++);
  const pass = patience.during(() => new Promise(() => undefined));
  const failed = pass.catch((error: unknown) => error);
  const [there, one, two] = [point(), point(), point()];
  there.timeMs = 1;
  one.timeMs = 1;
  patience.queued(layerOf('block 7', there, [one, two]));
  await vi.advanceTimersByTimeAsync(0.9 * PATIENCE_MS);
  expect(gaveUp).toBe(0);
  await vi.advanceTimersByTimeAsync(5 * PATIENCE_MS);
  expect(await failed).toMatchObject({
    code: 'DEVICE_FAILED',
    message: expect.stringMatching(/^a device hangs: gpu:1 has not computed block 7 for 1 s/),
  });
  expect(gaveUp).toBe(1);
  let begun = 0;
  await expect(patience.during(async () => begun++)).rejects.toMatchObject({ code: 'DEVICE_FAILED' });
  expect(begun).toBe(0);
});
