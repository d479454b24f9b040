// What one round of the soak does, drawn from its own seed: a model, where its bytes rest, how it is cut, what goes wrong.

import { constants } from 'node:os';
import type { CpuBackendOptions, DeviceResident, Offload, PlanOptions } from '../../offload/index.js';
import { randomFrom, randomInt } from '../random.js';

/** What happens in a round; all but the first two are meant to end early. */
export type Event =
  | 'generate'
  | 'score'
  /** The engine is closed during a pass, */
  | 'close'
  /** or the run is told to stop between two. */
  | 'abort'
  | 'small budget'
  | 'read error'
  | 'bad table';

export interface SoakCase {
  readonly iteration: number;
  readonly model: string;
  readonly event: Event;
  /** When it happens, of a run's usual time: 0 at its start. */
  readonly moment: number;
  readonly sampled: boolean;
  readonly batchSize: number;
  readonly offload: Offload;
  /** Bytes that the budget is short of one that holds all, as a share of the layers' bytes; undefined: no budget to speak of. */
  readonly dramShort: number | undefined;
  readonly deviceShort: number | undefined;
  readonly plan: Partial<PlanOptions>;
  readonly io: NonNullable<CpuBackendOptions['io']>;
}

/** What the kind of device allows. */
export interface SoakDevices {
  readonly kind: 'cpu' | 'cuda';
  /** Devices with memory of their own; 0: computing in place. */
  readonly count: number;
}

export const BATCH_SIZES = [1, 4, 12] as const;

/** Models whose experts may lie in slots. */
const MIXTURES = /mixtral|moe|gpt_oss|deepseek|qwen3_next|nemotron_h/;

/** A round in so many is none of the plain ones. */
const EVENTS: readonly (readonly [Event, number])[] = [
  ['generate', 60],
  ['score', 14],
  ['close', 8],
  ['abort', 4],
  ['small budget', 6],
  ['read error', 4],
  ['bad table', 4],
];

/** @param models the last one is large, and taken seldom */
export function drawCase(
  seed: number,
  iteration: number,
  models: readonly string[],
  devices: SoakDevices,
): SoakCase {
  const random = randomFrom(seed * 1_000_003 + iteration);
  const below = (limit: number) => randomInt(random, limit);
  const chance = (share: number) => random() < share;
  const some = <T>(share: number, value: () => T): T | undefined => (chance(share) ? value() : undefined);
  const event = drawEvent(below);
  const large = chance(0.04) ? models.at(-1) : models[below(models.length - 1)];
  const model = large ?? '';
  const slots =
    devices.count > 0 && MIXTURES.test(model) ? some(0.5, () => drawSlots(below, devices)) : undefined;
  return {
    iteration,
    model,
    // A failed GPU is lost to its process, so that a process of its own must have it, which takes seconds.
    event: event === 'bad table' && devices.kind === 'cuda' && chance(0.75) ? 'generate' : event,
    moment: random(),
    sampled: chance(0.3),
    batchSize: BATCH_SIZES[below(BATCH_SIZES.length)] ?? 1,
    offload: slots
      ? slots.dramSlots
        ? 'nvme'
        : 'dram'
      : ((['auto', 'dram', 'nvme'] as const)[below(3)] ?? 'auto'),
    dramShort: some(0.4, () => random() * 1.1 - 0.1),
    deviceShort: devices.count > 0 ? some(0.5, () => random() * 1.1 - 0.1) : undefined,
    plan: definedOf({
      hostWindowLayers: some(0.5, () => 1 + below(5)),
      microBatchTokens: some(0.3, () => [5, 16, 64][below(3)]),
      microBatchSequences: some(0.3, () => [1, 3][below(2)]),
      ...(devices.count === 0
        ? {}
        : {
            deviceWindowLayers: some(0.5, () => 1 + below(3)),
            kvOffload: some(0.4, () => true),
            ...slots,
            deviceResident: some(
              slots ? 0 : 0.6,
              (): DeviceResident =>
                chance(0.4) ? 'auto' : chance(0.5) ? { layers: below(4) } : { bytes: below(2 ** 20) },
            ),
          }),
    }),
    io: drawIo(below, chance),
  };
}

/** Slots for experts, and those behind them, or a share that the CPU computes: in f32, so on a GPU as well, or tokens would differ. */
function drawSlots(below: (limit: number) => number, { kind }: SoakDevices): Partial<PlanOptions> {
  return {
    expertSlots: 12 + below(30),
    // Experts rest in DRAM, where the CPU may compute with them, or on the drive behind slots of DRAM.
    ...(below(3) === 0
      ? { dramSlots: 12 + below(40) }
      : { cpuCompute: (['auto', 'only', 'off'] as const)[below(3)] ?? 'auto' }),
    ...(kind === 'cuda' ? { activationType: 'f32' as const } : {}),
  };
}

function drawEvent(below: (limit: number) => number): Event {
  let left = below(EVENTS.reduce((sum, [, weight]) => sum + weight, 0));
  for (const [event, weight] of EVENTS) {
    if (left < weight) return event;
    left -= weight;
  }
  return 'generate';
}

/** Ways of reading, and what drives and kernels refuse or do by halves: results must not show it. */
function drawIo(below: (limit: number) => number, chance: (share: number) => boolean): SoakCase['io'] {
  const { errno } = constants;
  const faults = [
    {},
    { shortEveryN: 2 + below(5) },
    { eagainEveryN: 2 + below(5) },
    { registerErrno: errno.ENOMEM },
    { directOpenErrno: errno.EINVAL },
    { directReadErrno: errno.EINVAL },
    { ringInitErrno: errno.EPERM },
  ][chance(0.4) ? below(7) : 0];
  return {
    ...(chance(0.15) ? { engine: 'threads' as const } : {}),
    ...(chance(0.15) ? { direct: false } : {}),
    ...(chance(0.15) ? { fixedBuffers: false } : {}),
    ...(faults ? { faults } : {}),
  };
}

/** Without the values that were not drawn: an absent option is not one that is undefined. */
function definedOf(options: { readonly [K in keyof PlanOptions]?: PlanOptions[K] | undefined }) {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as Partial<PlanOptions>;
}
