import { describe, expect, it } from 'vitest';
import { editDistance, suggest } from '../../src/text/suggest.js';

describe('editDistance', () => {
  it('counts inserted, deleted and replaced letters', () => {
    expect(editDistance('', 'abc')).toBe(3);
    expect(editDistance('kitten', 'sitting')).toBe(3);
    expect(editDistance('same', 'same')).toBe(0);
    expect(editDistance('flaw', 'lawn')).toBe(editDistance('lawn', 'flaw'));
  });
});

describe('suggest', () => {
  const names = ['batch_size', 'benchmark', 'prompt', 'prompts_file'];
  it('finds the nearest name, or the one that begins so', () => {
    expect(suggest('batchsize', names)).toBe('batch_size');
    expect(suggest('promt', names)).toBe('prompt');
    expect(suggest('bench', names)).toBe('benchmark');
  });
  it('finds nothing where nothing is near', () => {
    expect(suggest('temperature', names)).toBeUndefined();
    expect(suggest('x', names)).toBeUndefined();
  });
});
