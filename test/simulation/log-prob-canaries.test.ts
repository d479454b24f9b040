// Planted bugs in the log-probabilities of tokens.

import { expect, it } from 'vitest';
import { ForwardOps } from '../../offload/model/forward-ops.js';
import { COPYING, caught } from './caught.js';

it('log-probabilities that stay as they were in the pass before', async () => {
  const { nllFold } = ForwardOps.prototype;
  let folds = 0;
  ForwardOps.prototype.nllFold = function (...operands) {
    if (folds++ % 2 === 0) nllFold.apply(this, operands);
  };
  try {
    const { share, by } = await caught({ ...COPYING, passes: 5 });
    expect(share).toBeGreaterThan(0.6);
    expect([...by]).toEqual(['WrongResultError']);
  } finally {
    ForwardOps.prototype.nllFold = nllFold;
  }
});
