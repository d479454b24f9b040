// The lines of a report say what the figures say.

import { describe, expect, it } from 'vitest';
import { UNKNOWN_LIMITS, withComputeLimits } from '../../src/report/limits.js';
import type { Meter } from '../../src/report/meter.js';
import { performanceBlock, streamingLines } from '../../src/report/report.js';

describe('performance block', () => {
  it('has the wording of transformers-bloom-inference, and sums cycles', () => {
    const cycles = [
      { seconds: 2, newTokens: 800 },
      { seconds: 3, newTokens: 700 },
    ];
    expect(performanceBlock({ batchSize: 8, readySeconds: 0.5, cycles })).toBe(
      [
        '*** Performance stats:',
        'Throughput per token including tokenize: 3.33 msecs',
        'Start to ready to generate: 0.500 secs',
        'Tokenize and generate 1500 (bs=8) tokens: 5.000 secs',
        'Start to finish: 5.500 secs',
        '',
      ].join('\n'),
    );
  });

  it('divides by no zero when every sequence ended at once', () => {
    const block = performanceBlock({ batchSize: 1, readySeconds: 0, cycles: [{ seconds: 1, newTokens: 0 }] });
    expect(block).toContain('tokenize: 0.00 msecs');
  });
});

describe('a share of a limit', () => {
  const lane = { lane: 'nvme→dram', owner: 'drive', bytes: 1e9, spans: 4, busyMs: 1000 } as const;
  const meter = { lanes: () => [lane], phase: () => undefined, passes: 1, drives: [] } as unknown as Meter;
  const lineAt = (driveBytesPerSecond: number) =>
    streamingLines(meter, { ...UNKNOWN_LIMITS, driveBytesPerSecond })[0];

  it('is never above one: noise is all of it, and more than that was not bound by it', () => {
    expect(lineAt(2e9)).toContain('1.00 GB/s (50 % of 2.00 GB/s');
    expect(lineAt(0.97e9)).toContain('(100 % of 970.0 MB/s');
    expect(lineAt(0.5e9)).toContain('(more than the 500.0 MB/s that were measured');
  });

  it('of a GPU is not taken of what the processor reaches', () => {
    expect(withComputeLimits(1e9, 'cuda', 1)).toEqual({ ...UNKNOWN_LIMITS, driveBytesPerSecond: 1e9 });
  });
});
