// The type of what a block makes between its weights, on a device that computes in several types.

import { assert } from '../errors.js';
import { type FloatType, isFloat } from '../port/dtype.js';
import { ForwardWalk } from './forward-walk.js';
import { type ModelSpec, weightType } from './model.js';

const known = new WeakMap<ModelSpec, FloatType>();

/**
 * The 16-bit type of the weights, which makes products need no conversion; but f32 for a mixture of experts, where
 * rounding turns nearly even choices, and a token then passes through other experts than it should.
 */
export function deviceActivationType(model: ModelSpec): FloatType {
  const type = known.get(model) ?? (isMixture(model) ? 'f32' : weightType(model));
  assert(isFloat(type), 'weights are floats');
  known.set(model, type);
  return type;
}

function isMixture(model: ModelSpec): boolean {
  let routes = false;
  const walk = new ForwardWalk(model, { activationType: 'f32', kvType: 'f32' }, ({ op }) => {
    routes ||= op === 'route';
  });
  for (let index = 0; index < model.blocks.length; index++) walk.block(index, 1);
  return routes;
}
