// The timeline of a pass: what overlaps, what waits, and what the windows change.

import { describe, expect, it } from 'vitest';
import { type LayerTimes, simulatePasses } from '../../offload/predict/pipeline.js';

function layers(count: number, times: Partial<LayerTimes>): LayerTimes[] {
  return Array.from({ length: count }, () => ({ driveMs: 0, linkMs: 0, computeMs: 0, ...times }));
}

describe('drive and compute in place', () => {
  const both = layers(10, { driveMs: 8, computeMs: 5 });

  it('take turns with one buffer', () => {
    expect(simulatePasses(both, { host: 1, device: 0, betweenMs: 0 }).totalMs).toBeCloseTo(10 * (8 + 5));
  });

  it('overlap with two: the slower one is the limit', () => {
    expect(simulatePasses(both, { host: 2, device: 0, betweenMs: 0 }).totalMs).toBeCloseTo(80);
    const computing = layers(10, { driveMs: 5, computeMs: 8 });
    expect(simulatePasses(computing, { host: 2, device: 0, betweenMs: 0 }).totalMs).toBeCloseTo(80);
  });

  it('overlap across passes: the drive goes on while tokens are read', () => {
    const { totalMs, stallMs } = simulatePasses(both, { host: 4, device: 0, betweenMs: 6 });
    expect(totalMs).toBeCloseTo(80);
    expect(stallMs).toBeCloseTo(80 - 50 - 6);
  });

  it('a pass that waits for nothing takes what compute takes', () => {
    const { totalMs, stallMs } = simulatePasses(layers(10, { computeMs: 5 }), {
      host: 0,
      device: 0,
      betweenMs: 3,
    });
    expect(totalMs).toBeCloseTo(53);
    expect(stallMs).toBe(0);
  });

  it('streamed layers between resident ones are read while those compute', () => {
    const spread = Array.from({ length: 10 }, (_, i) => ({
      driveMs: i % 2 ? 10 : 0,
      linkMs: 0,
      computeMs: 5,
    }));
    expect(simulatePasses(spread, { host: 2, device: 0, betweenMs: 0 }).totalMs).toBeCloseTo(50);
    const bunched = Array.from({ length: 10 }, (_, i) => ({
      driveMs: i < 5 ? 10 : 0,
      linkMs: 0,
      computeMs: 5,
    }));
    expect(simulatePasses(bunched, { host: 2, device: 0, betweenMs: 0 }).totalMs).toBeGreaterThan(55);
  });
});

describe('devices with memory of their own', () => {
  it('link and compute overlap with two device buffers, and take turns with one', () => {
    const both = layers(10, { linkMs: 7, computeMs: 4 });
    expect(simulatePasses(both, { host: 0, device: 2, betweenMs: 0 }).totalMs).toBeCloseTo(70);
    expect(simulatePasses(both, { host: 0, device: 1, betweenMs: 0 }).totalMs).toBeCloseTo(110);
  });

  it('the slowest of three hops is the limit', () => {
    const all = layers(10, { driveMs: 9, linkMs: 7, computeMs: 4 });
    expect(simulatePasses(all, { host: 2, device: 2, betweenMs: 0 }).totalMs).toBeCloseTo(90);
  });
});
