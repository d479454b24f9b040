// The type of what a block makes between its weights, on a device that computes in several types.

import { assert } from '../errors.js';
import { type FloatType, isFloat } from '../port/dtype.js';
import { type ModelSpec, weightType } from './model.js';

/** A mixture has tens of thousands of matrices, and plans ask again and again. */
const known = new WeakMap<ModelSpec, FloatType>();

/**
 * The type of the weights, so that products need no conversion. What decides is not rounded to it: the residual stream, the
 * inputs and scores of a mixture's router, logits.
 */
export function deviceActivationType(model: ModelSpec): FloatType {
  const type = known.get(model) ?? weightType(model);
  assert(isFloat(type), 'weights are floats');
  known.set(model, type);
  return type;
}
