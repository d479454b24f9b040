// The status of a long run: how many texts, how fast, how long still.

import { describe, expect, it } from 'vitest';
import { formatDuration, generationStatus } from '../../src/cli/generation/status.js';

const PASS = { phase: 'mixed', tokens: 9, microBatches: 1, sequences: 4, capacity: 4 } as const;

describe('status', () => {
  it('says what is done, earlier runs included, and reckons with what is under way', () => {
    let now = 1000;
    const status = generationStatus(50, 150, () => now);
    expect(status.describe()).toBe('prefill: pass 1, 150 of 200 texts');
    now += 60_000;
    for (let token = 0; token < 120; token++) status.onToken();
    const counts = { waitingPrompts: 36, totalPrompts: 50, finishedPrompts: 10, doneShare: 0.25 };
    status.onPass({ ...PASS, ...counts });
    expect(status.describe()).toBe('160 of 200 texts, pass 2, 2.0 tokens/s, about 3 min left');
  });
});

it.each([
  [0.2, '1 s'],
  [119, '119 s'],
  [121, '2 min'],
  [3600, '60 min'],
  [7200, '2 h 0 min'],
  [12_345, '3 h 30 min'],
])('%d s is %s', (seconds, text) => {
  expect(formatDuration(seconds)).toBe(text);
});
