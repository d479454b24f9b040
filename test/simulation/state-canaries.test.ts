// Planted bugs in what blocks keep per sequence.

import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import { caught, REMEMBERING, streams } from './caught.js';
import type { StreamPlants } from './plants.js';

type StateOp = Extract<Op, { op: 'causal_conv' | 'state_scan' }>;

describe('states of sequences', () => {
  /** @param change is given every operation on states before it is queued */
  const planted = async (change: (op: StateOp) => void) => {
    const onLaunch: StreamPlants['onLaunch'] = (_, op) => {
      if (op.op === 'causal_conv' || op.op === 'state_scan') change(op);
    };
    return (await caught({ ...REMEMBERING, ...streams(() => ({ onLaunch })) })).share;
  };

  it('a block takes those of the one before', async () => {
    const last = new Map<string, Tensor>();
    const change = (op: StateOp) => {
      const own = op.state;
      const before = last.get(op.op);
      last.set(op.op, own);
      if (before && before.memory === own.memory && before.shape.join() === own.shape.join())
        op.state = before;
    };
    expect(await planted(change)).toBeGreaterThan(0.3);
  });

  it('a sequence takes the slot beside its own', async () => {
    const change = (op: StateOp) => {
      const stride = present(op.state.strides[0], 'stride of slots');
      // Every third time, and inside what the block has.
      if (++turn % 3 > 0 || present(op.state.shape[0], 'slots') < 2) return;
      const [slots = 0, ...inner] = op.state.shape;
      op.state = {
        ...op.state,
        offsetBytes: op.state.offsetBytes + 4 * stride,
        shape: [slots - 1, ...inner],
      };
    };
    let turn = 0;
    expect(await planted(change)).toBeGreaterThan(0.3);
  });
});
