// Planted bugs in the log-probabilities of tokens.

import { expect, it } from 'vitest';
import { Kernels } from '../../offload/model/kernels.js';
import { COPYING, caught } from './caught.js';

it('log-probabilities that stay as they were in the pass before', async () => {
  const { nllFold } = Kernels.prototype;
  let folds = 0;
  Kernels.prototype.nllFold = function (...operands) {
    if (folds++ % 2 === 0) nllFold.apply(this, operands);
  };
  try {
    const { share, by } = await caught({ ...COPYING, passes: 5 });
    expect(share).toBeGreaterThan(0.6);
    expect([...by]).toEqual(['WrongResultError']);
  } finally {
    Kernels.prototype.nllFold = nllFold;
  }
});
