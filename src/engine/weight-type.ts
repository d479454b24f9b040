// Whether a checkpoint has the float type that somebody says it has.

import { OperatingError } from '../../offload/index.js';
import type { OpenedModel } from './open-model.js';
import { FLOAT_TYPES, isFloatType, type ShapeType } from './shape-tensors.js';

/**
 * Weights stay as they are stored, so another type can only be refused. Formats are only made, with random weights. Throws
 * UNSUPPORTED.
 */
export function checkType({ checkpoint }: OpenedModel, wanted: ShapeType | undefined): void {
  if (wanted === undefined || !isFloatType(wanted)) return;
  const other = [...checkpoint.tensors.values()].find(({ dtype }) => dtype !== FLOAT_TYPES[wanted]);
  if (!other) return;
  throw new OperatingError(
    'UNSUPPORTED',
    `--dtype is ${wanted}, but ${checkpoint.folder} stores ${other.name} as ${other.dtype}, and weights are used ` +
      `as stored: leave --dtype out or convert the checkpoint`,
  );
}
