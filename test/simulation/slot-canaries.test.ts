// Planted bugs around experts in slots: who leaves, what lies where, and which passes bring only what they choose.

import { afterEach, describe, expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import type { ExpertFiles } from '../../offload/model/expert-files.js';
import { slotWords, totalWords } from '../../offload/plan/slots.js';
import type { HostMemory } from '../../offload/port/backend.js';
import type { Memory, Op } from '../../offload/port/ops.js';
import { DriveHop } from '../../offload/stream/drive-hop.js';
import { Schedule } from '../../offload/stream/schedule.js';
import { SlotCall } from '../simulator/slots.js';
import { CHOOSING, caught, nth, READING, streams } from './caught.js';
import { type StreamPlants, withPlants } from './plants.js';
import type { Scenario } from './scenario.js';
import type { WorldOptions } from './world.js';

type BringOp = Extract<Op, { op: 'bring_experts' }>;

/** Share of seeds in which a bug is caught. */
async function share(options: WorldOptions): Promise<number> {
  return (await caught(options, undefined, 15)).share;
}

it('finds nothing where nothing is planted', async () => {
  for (const slots of ['few', 'all'] as const) {
    expect(await share({ ...CHOOSING, slots })).toBe(0);
    expect(await share({ ...READING, slots })).toBe(0);
  }
});

describe('who lies where', () => {
  const { forget, copies, isWanted, startOf } = SlotCall.prototype;
  afterEach(() => Object.assign(SlotCall.prototype, { forget, copies, isWanted, startOf }));

  it('an expert leaves that the same call wants', async () => {
    SlotCall.prototype.isWanted = () => false;
    expect(await share(CHOOSING)).toBeGreaterThan(0.2);
  });

  it('who leaves is still said to lie there', async () => {
    SlotCall.prototype.forget = () => undefined;
    expect(await share(CHOOSING)).toBeGreaterThan(0.25);
  });

  it('who comes is put where another lies', async () => {
    SlotCall.prototype.startOf = function (slot) {
      return startOf.call(this, Math.max(0, slot - 1));
    };
    expect(await share({ ...CHOOSING, slots: 'all' })).toBeGreaterThan(0.4);
  });

  it('one part is left out', async () => {
    SlotCall.prototype.copies = function () {
      return copies.call(this).slice(1);
    };
    expect(await share(CHOOSING)).toBeGreaterThan(0.4);
  });
});

it('parts of two experts are taken for each other', async () => {
  const alter = (scenario: Scenario): Scenario => {
    const layers = scenario.plan.layers.map((layer) => {
      const [first, second, ...others] = layer.experts?.hostOffsets ?? [];
      if (!layer.experts || !first || !second) return layer;
      const [[one = 0, ...rest], [two = 0, ...more]] = [first, second];
      const hostOffsets = [[two, ...rest], [one, ...more], ...others];
      return { ...layer, experts: { ...layer.experts, hostOffsets } };
    });
    return { ...scenario, plan: { ...scenario.plan, layers } };
  };
  expect(await share({ ...CHOOSING, alter })).toBeGreaterThan(0.3);
});

it('two layers have the same experts of all', async () => {
  const alter = (scenario: Scenario): Scenario => {
    const layers = scenario.plan.layers.map((layer) =>
      layer.experts ? { ...layer, experts: { ...layer.experts, firstKey: 0 } } : layer,
    );
    return { ...scenario, plan: { ...scenario.plan, layers } };
  };
  expect(await share({ ...CHOOSING, alter })).toBeGreaterThan(0.3);
});

describe('what is not there yet', () => {
  it('all but the experts of the first layer', async () => {
    const plants = (): StreamPlants => {
      const first = nth(0);
      return { dropWait: (on, event) => on.kind === 'compute' && event.kind === 'fetch' && first() };
    };
    expect(await share({ ...CHOOSING, ...streams(plants) })).toBeGreaterThan(0.2);
  });

  it('the layer in DRAM, which is taken for read', async () => {
    const { atRest } = DriveHop.prototype;
    DriveHop.prototype.atRest = function (step) {
      const filling = atRest.call(this, step);
      return filling && { ...filling, ready: Promise.resolve(0) };
    };
    try {
      expect(await share(CHOOSING)).toBeGreaterThan(0.8);
    } finally {
      DriveHop.prototype.atRest = atRest;
    }
  });

  it('the layer that experts come from, while all else of it has long been there', async () => {
    const wrap: WorldOptions['wrap'] = (backend) => {
      const homes: HostMemory[] = [];
      const onLaunch: StreamPlants['onLaunch'] = (_, op) => {
        if (op.op !== 'bring_experts') return;
        moved(op, present(homes.at(-1), 'a layer in DRAM'));
      };
      const planted = withPlants(backend, { onLaunch });
      return {
        ...planted,
        allocateHost: (sizeBytes, purpose) => {
          const memory = backend.allocateHost(sizeBytes, purpose);
          if (purpose === 'resident') homes.push(memory);
          return memory;
        },
      };
    };
    expect(await share({ ...CHOOSING, wrap })).toBeGreaterThan(0.4);
  });

  /** Experts come from the same bytes of another layer. */
  function moved(op: BringOp, memory: Memory): void {
    op.home = { ...present(op.home, 'home'), memory, shape: [memory.sizeBytes] };
  }
});

describe('experts that come from files', () => {
  const alterFirst = (change: (files: ExpertFiles) => ExpertFiles) => {
    return (scenario: Scenario): Scenario => {
      const layers = scenario.plan.layers.map((layer) => {
        const { experts } = layer;
        if (!experts?.files) return layer;
        return { ...layer, experts: { ...experts, files: change(experts.files) } };
      });
      return { ...scenario, plan: { ...scenario.plan, layers } };
    };
  };

  it('two of them are taken for each other', async () => {
    const alter = alterFirst((files) => {
      const [first, second, ...others] = files.experts;
      return first && second ? { ...files, experts: [second, first, ...others] } : files;
    });
    expect(await share({ ...READING, alter })).toBeGreaterThan(0.3);
  });

  it('a part is looked for where that of another begins', async () => {
    const alter = alterFirst((files) => {
      const partOffsets = files.partOffsets.map((offsets) => [...offsets].reverse());
      return { ...files, partOffsets };
    });
    expect(await share({ ...READING, alter })).toBeGreaterThan(0.3);
  });

  it('all but the experts is taken for read', async () => {
    const { atRest } = DriveHop.prototype;
    DriveHop.prototype.atRest = function (step) {
      const filling = atRest.call(this, step);
      return filling && { ...filling, ready: Promise.resolve(0) };
    };
    try {
      expect(await share(READING)).toBeGreaterThan(0.25);
    } finally {
      DriveHop.prototype.atRest = atRest;
    }
  });
});

describe('which passes choose', () => {
  const { chooses } = Schedule.prototype;
  afterEach(() => Object.assign(Schedule.prototype, { chooses }));

  it('one with more tokens than slots hold', async () => {
    Schedule.prototype.chooses = () => true;
    expect(await share({ ...CHOOSING, passes: 6 })).toBeGreaterThan(0.5);
  });

  it('none: whole layers pass by', async () => {
    Schedule.prototype.chooses = () => false;
    expect(await share(CHOOSING)).toBeGreaterThan(0.4);
  });

  it('one as the pass before it did', async () => {
    let before = true;
    Schedule.prototype.chooses = async function (passIndex) {
      const said = await chooses.call(this, passIndex);
      const told = before;
      if (said !== undefined) before = said;
      return said === undefined ? undefined : told;
    };
    expect(await share({ ...CHOOSING, passes: 6 })).toBeGreaterThan(0.3);
  });
});

it('two devices have the same tables', async () => {
  let tableBytes = 0;
  const alter = (scenario: Scenario): Scenario => {
    const { slots, layers } = scenario.plan;
    tableBytes =
      4 *
      totalWords(
        slotWords(
          present(slots, 'slots'),
          layers.flatMap(({ experts }) => experts ?? []),
        ),
      );
    return scenario;
  };
  const wrap: WorldOptions['wrap'] = (backend) => {
    let tables: Memory | undefined;
    return withPlants(
      backend,
      {},
      {
        allocate: (device, sizeBytes) => {
          if (sizeBytes !== tableBytes) return device.allocate(sizeBytes);
          tables ??= device.allocate(sizeBytes);
          return tables;
        },
      },
    );
  };
  expect(await share({ ...CHOOSING, deviceCount: 2, alter, wrap })).toBeGreaterThan(0.4);
});
