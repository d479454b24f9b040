// Options that were given and change nothing on the devices that are used: told, so that nobody waits for their effect.

import type { OptionReader } from './option-reader.js';

export interface DevicesInUse {
  readonly device: 'cpu' | 'cuda';
  readonly deviceCount: number;
  /** The options are of a machine that a file describes. */
  readonly described: boolean;
}

type Place = 'cpu' | 'virtual devices' | 'cuda' | 'described';

/** Where each has none, and why. What contradicts its device is refused elsewhere. */
const IDLE: readonly { readonly option: string; readonly at: readonly Place[]; readonly why: string }[] = [
  { option: 'gpu_memory', at: ['cpu'], why: 'the CPU computes in DRAM, which --dram_memory bounds' },
  { option: 'gpu_memory', at: ['virtual devices'], why: 'virtual devices take as much as they need' },
  { option: 'kv_offload', at: ['cpu'], why: 'keys and values of the CPU rest in DRAM anyway' },
  { option: 'threads', at: ['cuda'], why: 'the GPU computes' },
  { option: 'threads', at: ['described'], why: '--machine says how fast it computes' },
  { option: 'io_engine', at: ['described'], why: '--machine says how fast its drive is' },
  { option: 'no_direct_io', at: ['described'], why: '--machine says how fast its drive is' },
];

export function idleOptions(options: OptionReader, inUse: DevicesInUse): string[] {
  const place = placeOf(options, inUse);
  const lines = IDLE.filter(({ option, at }) => at.includes(place) && options.has(option)).map(
    ({ option, why }) => idle(option, why),
  );
  const gather = options.text('gather');
  const parallel = options.text('parallel');
  const gathers = gather !== undefined && gather !== 'auto';
  if (gathers && place === 'cuda' && inUse.deviceCount === 1) {
    lines.push(idle('gather', 'a single device has nobody to gather from'));
  } else if (gathers && parallel === 'pipeline') {
    lines.push(idle('gather', 'devices of a pipeline have layers of their own'));
  }
  if (parallel !== undefined && parallel !== 'streams' && parallel !== 'auto' && inUse.deviceCount === 1) {
    lines.push(idle('parallel', 'a single device shares its work with nobody; --num_gpus says how many do'));
  }
  return lines;
}

function placeOf(options: OptionReader, { device, described }: DevicesInUse): Place {
  if (described) return 'described';
  if (device === 'cuda') return 'cuda';
  return options.has('virtual_devices') ? 'virtual devices' : 'cpu';
}

function idle(option: string, why: string): string {
  return `--${option} is given and changes nothing: ${why}`;
}
