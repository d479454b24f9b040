// The meter attributes what the trace sums up to the phase in which it happened.

import { describe, expect, it } from 'vitest';
import { formatOf, layerOf, type MatrixSpec, type Plan, Trace } from '../../offload/index.js';
import { Meter } from '../../src/report/meter.js';
import { streamingBlock } from '../../src/report/report.js';

/** A matrix of 4 bits whose codes and scales are so many bytes. */
function packed(sizeBytes: number): MatrixSpec {
  const part = (key: string, dtype: 'i32' | 'bf16', shape: readonly number[], bytes: number) => {
    return { key, dtype, shape, extent: { fileIndex: 0, fileOffset: 0, sizeBytes: bytes } };
  };
  const scaleBytes = 40;
  return {
    key: 'w',
    format: formatOf('packed4', 'bf16', { inputGroup: 64 }),
    shape: [10, 128],
    firstRow: 0,
    parts: {
      codes: part('w', 'i32', [10, 16], sizeBytes - scaleBytes),
      scales: part('w scales', 'bf16', [10, 2], scaleBytes),
    },
  };
}

/** Two layers of 600 and 400 bytes; 10 operations a token. */
function smallPlan(): Plan {
  const layers = [600, 400].map((sizeBytes) => ({
    tier: 'nvme',
    layout: { layer: layerOf('block', [packed(sizeBytes)]) },
  }));
  return { layers, blockFlopsPerToken: 10 } as unknown as Plan;
}

function compute(trace: Trace, startMs: number, endMs: number): void {
  trace.add({ lane: 'compute', owner: 'cpu', name: 'block 0', startMs, endMs, bytes: 0 });
}

describe('meter', () => {
  it('sums tokens, busy time, stall and weight bytes per phase', () => {
    const trace = new Trace(false);
    const meter = new Meter(trace, smallPlan());
    compute(trace, 0, 500);
    trace.addComputeStall(250, 'block 0');
    meter.pass({ phase: 'prefill', tokens: 8, microBatches: 2 });
    for (const start of [1000, 2000]) {
      compute(trace, start, start + 100);
      meter.pass({ phase: 'decode', tokens: 1, microBatches: 1 });
    }
    const prefill = {
      passes: 1,
      tokens: 8,
      computeSeconds: 0.5,
      stallSeconds: 0.25,
      weightBytes: 2000,
      blockFlops: 80,
    };
    expect(meter.phase('prefill')).toMatchObject(prefill);
    const decode = {
      passes: 2,
      tokens: 2,
      computeSeconds: 0.2,
      stallSeconds: 0,
      weightBytes: 2000,
      blockFlops: 20,
    };
    expect(meter.phase('decode')).toMatchObject(decode);
    expect(meter.passes).toBe(3);
  });

  it('takes the average of devices that compute side by side, and the sum of what they read', () => {
    const trace = new Trace(false);
    const meter = new Meter(trace, smallPlan());
    for (const [owner, endMs] of [
      ['cuda:0', 400],
      ['cuda:1', 200],
    ] as const) {
      trace.add({ lane: 'compute', owner, name: 'block 0', startMs: 0, endMs, bytes: 0 });
      trace.addComputeStall(100, 'block 0');
    }
    meter.pass({ phase: 'mixed', tokens: 8, microBatches: 2 });
    const figures = { computeSeconds: 0.3, stallSeconds: 0.1, weightBytes: 2000, tokens: 8 };
    expect(meter.phase('mixed')).toMatchObject(figures);
  });

  it('forgets what was before a reset', () => {
    const trace = new Trace(false);
    const meter = new Meter(trace, smallPlan());
    trace.add({ lane: 'nvme→dram', owner: 'drive', name: 'block 0', startMs: 0, endMs: 5, bytes: 600 });
    compute(trace, 5, 10);
    meter.pass({ phase: 'decode', tokens: 1, microBatches: 1 });
    expect(meter.streamedBytes).toBe(600);
    meter.reset();
    expect(meter.streamedBytes).toBe(0);
    compute(trace, 20, 30);
    meter.pass({ phase: 'decode', tokens: 1, microBatches: 1 });
    expect(meter.phase('decode')).toMatchObject({ passes: 1, computeSeconds: 0.01 });
  });

  it('is printed beside the limits', () => {
    const trace = new Trace(false);
    const meter = new Meter(trace, smallPlan());
    trace.add({ lane: 'nvme→dram', owner: 'drive', name: 'block 0', startMs: 0, endMs: 1000, bytes: 1.5e9 });
    compute(trace, 1000, 2000);
    meter.pass({ phase: 'decode', tokens: 1, microBatches: 1 });
    const limits = { driveBytesPerSecond: 2e9, memoryBytesPerSecond: 4000, flopsPerSecond: 100 };
    const block = streamingBlock(meter, limits);
    expect(block).toContain('1.40 GiB at 1.50 GB/s (75 % of 2.00 GB/s, the limit in this run)');
    expect(block).toContain(
      'decode compute: 1000 B of weights (int4 in groups of 64, bf16 scales) at 0.0 MB/s (25 % of',
    );
  });
});
