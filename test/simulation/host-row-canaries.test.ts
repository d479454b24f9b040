// Planted bugs around rows that the host multiplies where they rest: what is there, what is asked for, and when it is taken.

import { afterEach, describe, expect, it } from 'vitest';
import { CUTS, type CutLayer } from '../../offload/model/cut-layer.js';
import { ForwardOps } from '../../offload/model/forward-ops.js';
import { cutOf } from '../../offload/plan/host-rows.js';
import { DeviceRows } from '../../offload/run/host-rows.js';
import { DriveHop } from '../../offload/stream/drive-hop.js';
import { RowShare } from '../../offload/stream/row-share.js';
import { COPYING, caught } from './caught.js';
import { type StreamPlants, withPlants } from './plants.js';
import type { Scenario } from './scenario.js';
import type { World, WorldOptions } from './world.js';

const LEAVING: WorldOptions = {
  ...COPYING,
  tiers: 'dram',
  rows: true,
  slots: 'none',
  deviceCount: 1,
  passes: 5,
  blocks: 3,
};

/** Share of seeds in which a bug is caught. */
async function share(options: WorldOptions, play?: (world: World) => Promise<void>): Promise<number> {
  return (await caught(options, play, 12)).share;
}

function launches(onLaunch: () => Required<StreamPlants>['onLaunch']): Pick<WorldOptions, 'wrap'> {
  return { wrap: (backend) => withPlants(backend, { onLaunch: onLaunch() }) };
}

it('finds nothing where nothing is planted, and rows are left to the host, as many as is best', async () => {
  let [passes, corrected] = [0, 0];
  const play = async (world: World) => {
    await world.playAll();
    const counts = world.executor.rowCounts;
    passes += counts?.passes ?? 0;
    corrected += Number(counts?.share !== (world.scenario.plan.rows?.share ?? 0) / CUTS);
  };
  expect(await share(LEAVING, play)).toBe(0);
  expect(await share({ ...LEAVING, tiers: 'mixed', passes: 6 }, play)).toBe(0);
  expect(passes).toBeGreaterThan(20);
  expect(corrected).toBeGreaterThan(0);
});

describe('which rows come', () => {
  const { cutFor } = RowShare.prototype;
  afterEach(() => Object.assign(RowShare.prototype, { cutFor }));

  /** Layers come as `change` has it of what is meant. */
  function changed(change: (cut: CutLayer, wider: (share: number) => CutLayer) => CutLayer): WorldOptions {
    let scenario: Scenario | undefined;
    RowShare.prototype.cutFor = function (layerIndex) {
      const cut = cutFor.call(this, layerIndex);
      const layer = scenario?.plan.layers[layerIndex];
      return cut && layer && change(cut, (at) => cutOf(layer, at));
    };
    return {
      ...LEAVING,
      alter: (drawn) => {
        scenario = drawn;
        return drawn;
      },
    };
  }

  it('fewer than are multiplied with', async () => {
    const options = changed((cut, at) => ({
      ...cut,
      travelling: at(Math.max(0, cut.share - 12)).travelling,
    }));
    expect(await share(options)).toBeGreaterThan(0.4);
  });

  it('others do not follow for a pass of many tokens', async () => {
    const options = changed((cut) => ({ ...cut, staying: [] }));
    expect(await share({ ...options, passes: 8 })).toBeGreaterThan(0.15);
  });

  it('those of the host begin where the device has some', async () => {
    const options = changed((cut, at) => {
      const others = at(Math.min(CUTS - 1, cut.share + 12));
      return { ...others, travelling: cut.travelling, staying: cut.staying };
    });
    expect(await share(options)).toBeGreaterThan(0.4);
  });
});

describe('what is asked for', () => {
  const { ask } = DeviceRows.prototype;
  afterEach(() => Object.assign(DeviceRows.prototype, { ask }));

  it('the job of another product', async () => {
    const plants = launches(() => {
      let before: number | undefined;
      return (_, op) => {
        if (op.op !== 'ask_host') return;
        const { job } = op;
        op.job = before ?? job;
        before = job;
      };
    });
    expect(await share({ ...LEAVING, ...plants })).toBeGreaterThan(0.4);
  });

  it('results of one are taken for those of another', async () => {
    DeviceRows.prototype.ask = function (x, products) {
      const asked = ask.call(this, x, products);
      const [first, second, ...others] = asked.results;
      const isAlike = first && second && first.shape.join() === second.shape.join();
      return isAlike ? { ...asked, results: [second, first, ...others] } : asked;
    };
    expect(await share(LEAVING)).toBeGreaterThan(0.3);
  });

  it('a product is not queued before the layer is given back', async () => {
    const { flush } = ForwardOps.prototype;
    ForwardOps.prototype.flush = () => undefined;
    // Jobs of former shares are forgotten in time only if none is asked for late.
    const alter = (scenario: Scenario): Scenario => {
      const { rows } = scenario.plan;
      return { ...scenario, plan: { ...scenario.plan, rows: rows && { ...rows, isFixed: true } } };
    };
    try {
      expect(await share({ ...LEAVING, deviceWindow: 1, alter })).toBeGreaterThan(0.3);
    } finally {
      ForwardOps.prototype.flush = flush;
    }
  });
});

it('the layer in DRAM is taken for read', async () => {
  const { atRest } = DriveHop.prototype;
  DriveHop.prototype.atRest = function (layerIndex) {
    const filling = atRest.call(this, layerIndex);
    return filling && { ...filling, ready: Promise.resolve(0) };
  };
  try {
    expect(await share(LEAVING)).toBeGreaterThan(0.8);
  } finally {
    DriveHop.prototype.atRest = atRest;
  }
});
