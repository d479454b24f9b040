// The lines of a report say what the figures say.

import { describe, expect, it } from 'vitest';
import { performanceBlock } from '../src/report.js';

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
