// Which layers rotate queries and keys, where some know nothing of positions (Kazemnejad et al. 2023).

import { OperatingError } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';

/** `no_rope_layers`, whose entries are 1 where a layer rotates; otherwise each but every `no_rope_layer_interval`-th does. */
export function readRotatingLayers(
  config: ConfigReader,
  blockCount: number,
  defaultInterval: number,
): (blockIndex: number) => boolean {
  const listed = config.raw('no_rope_layers');
  // An empty list is none, as a configuration of Llama 4 has it.
  if (listed === undefined || (Array.isArray(listed) && listed.length === 0)) {
    const interval = config.count(['no_rope_layer_interval'], defaultInterval);
    return (index) => (index + 1) % interval !== 0;
  }
  const isFlag = (value: unknown) => [0, 1, true, false].some((flag) => flag === value);
  if (!Array.isArray(listed) || listed.length < blockCount || !listed.every(isFlag)) {
    throw new OperatingError(
      'BAD_CONFIG',
      `${config.path}: no_rope_layers must be a list of ${blockCount} numbers, 1 for layers that rotate and 0 for others`,
    );
  }
  return (index) => Boolean(listed[index]);
}
