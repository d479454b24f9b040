// The share of rows that travel follows what link and host take, wherever it began, and layers come whole while the host is of no use.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { CUTS } from '../../offload/model/cut-layer.js';
import { makePlan } from '../../offload/plan/make-plan.js';
import type { Plan } from '../../offload/plan/plan.js';
import type { DeviceEvent, HostMemory } from '../../offload/port/backend.js';
import { RowShare } from '../../offload/stream/row-share.js';
import { shapeModel } from '../../src/engine/shape.js';
import { optionsFor } from '../helpers/plan-options.js';

const HOME: HostMemory = { id: 1, sizeBytes: 0, bytes: new Uint8Array() };
const at = (timeMs: number): DeviceEvent => ({ timeMs, reached: () => Promise.resolve() });

const config = readFileSync(new URL('../../configs/models/opt-1.3b.json', import.meta.url), 'utf8');
const { model } = shapeModel({ ...JSON.parse(config), num_hidden_layers: 4 }, 'opt-1.3b');

function planOf(hostRowShare: number, isFixed = false): Plan {
  const options = optionsFor('dram', { computesInPlace: false, hostRowShare });
  const plan = makePlan(
    model,
    { sequences: 1, contextTokens: 20, promptTokens: 4, output: 'tokens' },
    options,
  );
  return { ...plan, rows: { ...present(plan.rows, 'rows'), isFixed } };
}

/** Bytes a millisecond. */
interface Speeds {
  readonly link: number;
  readonly host: number;
}

function play(share: RowShare, plan: Plan, passes: number, { link, host }: Speeds): void {
  for (let pass = 0; pass < passes; pass++) {
    share.begin(true);
    for (const index of plan.layers.keys()) {
      const cut = share.cutFor(index);
      if (!cut) continue;
      const fetched = { started: at(0), ended: at(cut.travellingBytes / link) };
      share.note({ cut, home: HOME, fetched }, { started: at(1), ended: at(1 + cut.stayingBytes / host) });
    }
    share.end();
  }
}

const shareOf = (share: RowShare) => share.counts.share * CUTS;

describe('corrected', () => {
  it.each([0, 9, 20, 31])(
    'from %i of 32 to where both end together, and again when a rate changes tenfold',
    (first) => {
      const plan = planOf(first);
      const told: string[] = [];
      const share = new RowShare(plan, (what) => told.push(what));
      play(share, plan, 20, { link: 54, host: 88 });
      // 54 / (54 + 88) of 32
      expect(shareOf(share)).toBe(12);
      play(share, plan, 30, { link: 540, host: 88 });
      expect(shareOf(share)).toBe(28);
      play(share, plan, 30, { link: 54, host: 880 });
      expect(shareOf(share)).toBeLessThan(3);
      expect(told).toEqual([]);
    },
  );

  it('to whole layers where the host is of no use, said once, and tried again later', () => {
    const plan = planOf(12);
    const told: string[] = [];
    const share = new RowShare(plan, (what) => told.push(what));
    play(share, plan, 10, { link: 54, host: 0.1 });
    expect(shareOf(share)).toBe(CUTS);
    expect(share.cutFor(0)).toBeUndefined();
    play(share, plan, 900, { link: 54, host: 0.1 });
    const { passes } = share.counts;
    expect(told).toHaveLength(1);
    expect(told[0]).toMatch(
      /^the processor multiplies rows at .* beside a link of .*: layers come whole for now$/,
    );
    // In one layer, and more and more seldom.
    expect(passes).toBeGreaterThan(1);
    expect(passes).toBeLessThan(8);
    // What kept it busy is over.
    play(share, plan, 1100, { link: 54, host: 88 });
    expect(shareOf(share)).toBe(12);
  });

  it('not at all where a share was asked for', () => {
    const plan = planOf(12, true);
    const share = new RowShare(plan, () => expect.unreachable());
    play(share, plan, 30, { link: 1, host: 1000 });
    expect(shareOf(share)).toBe(12);
    expect(share.counts).toMatchObject({ passes: 30 });
  });
});

it('layers come whole for passes of many tokens', () => {
  const plan = planOf(12);
  const share = new RowShare(plan, () => undefined);
  expect(share.cutFor(0)).toBeUndefined();
  share.begin(true);
  expect(share.cutFor(0)?.stayingBytes).toBeGreaterThan(0);
  share.begin(false);
  expect(share.cutFor(0)).toBeUndefined();
});
