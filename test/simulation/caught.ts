// Plays planted bugs over many seeds and counts in how many of them they are caught.

import { expect } from 'vitest';
import { DeadlockError, HazardError } from '../simulator/simulated.js';
import { type StreamPlants, withPlants } from './plants.js';
import { LeakError, SEEDS, World, type WorldOptions, WrongResultError } from './world.js';

const SEEDS_EACH = Math.max(15, Math.ceil(SEEDS / 40));

/** Long enough that every buffer is used several times. */
export const STREAMING: WorldOptions = {
  blocks: 5,
  passes: 3,
  tiers: 'nvme',
  deviceCount: 2,
  gather: 'peer',
  busy: true,
  states: false,
  output: 'tokens',
};
export const COPYING: WorldOptions = { ...STREAMING, computesInPlace: false };
export const GATHERING: WorldOptions = { ...COPYING, deviceCount: 3, deviceWindow: 2 };
/** All devices gather together. */
export const TOGETHER: WorldOptions = { ...GATHERING, gather: 'nccl' };
/** Every device pulls whole layers. */
export const WHOLE: WorldOptions = { ...GATHERING, gather: 'none' };
/** Keys and values rest in DRAM. */
export const KEEPING: WorldOptions = {
  ...COPYING,
  tiers: 'gpu',
  kvOffload: true,
  deviceCount: 1,
  passes: 5,
  output: 'tokens',
};
export const RESTING: WorldOptions = { ...COPYING, tiers: 'gpu', shards: false };
/** Layers rest on several devices in shards. */
export const SHARDED: WorldOptions = { ...GATHERING, tiers: 'gpu', shards: true };
/** Some blocks keep states. */
export const REMEMBERING: WorldOptions = { ...RESTING, states: true, blocks: 5, passes: 5, deviceCount: 1 };

/** Every block has experts, of which there are slots for few. */
export const CHOOSING: WorldOptions = {
  ...RESTING,
  mixtures: true,
  slots: 'few',
  cpuCompute: 'off',
  expertHome: 'dram',
  blocks: 3,
  passes: 4,
  deviceCount: 1,
};

/** The same with experts on the drive, and few slots in DRAM between. */
export const EXCHANGING: WorldOptions = { ...CHOOSING, expertHome: 'drive', dramSlots: 'few' };

/** The same in place, where they come from the drive. */
export const READING: WorldOptions = { ...CHOOSING, computesInPlace: true, tiers: 'mixed' };

export type Play = (world: World) => Promise<void>;

/** Share of seeds in which a bug is caught, and by what. */
export async function caught(
  options: WorldOptions,
  play: Play = (world) => world.playAll(),
  seeds = SEEDS_EACH,
): Promise<{ share: number; by: Set<string> }> {
  let count = 0;
  const by = new Set<string>();
  for (let seed = 1; seed <= seeds; seed++) {
    try {
      await play(new World(seed, options));
    } catch (error) {
      const known = [HazardError, DeadlockError, WrongResultError, LeakError].some(
        (kind) => error instanceof kind,
      );
      if (!known) throw error;
      count++;
      by.add((error as Error).name);
    }
  }
  if (process.env.ZI_SIM_RATES) {
    console.info(`${expect.getState().currentTestName}: ${count}/${seeds} by ${[...by].join(', ')}`);
  }
  return { share: count / seeds, by };
}

export function streams(plants: () => StreamPlants): Pick<WorldOptions, 'wrap'> {
  return { wrap: (backend) => withPlants(backend, plants()) };
}

/** True for the n-th call only. */
export function nth(n: number): () => boolean {
  let calls = 0;
  return () => calls++ === n;
}
