// What products take in, by --compute_dtype and the device.

import type { ComputeType } from '../../../offload/index.js';
import type { DeviceKind } from '../../engine/engine-options.js';
import { badOption } from './option-reader.js';

/** Undefined: as the device does by itself. Throws BAD_OPTION for what only the CPU has. */
export function computeTypeOn(
  device: DeviceKind,
  choice: ComputeType | 'auto' | undefined,
): ComputeType | undefined {
  if (choice === undefined || choice === 'auto') return undefined;
  if (device === 'cpu' || choice === 'float32') return choice;
  throw badOption(
    `--compute_dtype ${choice} is for --device cpu: a GPU computes in the 16-bit type of the weights by itself, so leave it out, or give float32`,
  );
}
