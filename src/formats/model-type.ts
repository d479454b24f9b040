// The type of a model's values once they are expanded: what its configuration says, or else what its plain tensors have.

import type { FloatType } from '../../offload/index.js';
import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { textPart } from '../checkpoint/text-part.js';
import { floatTypeOf } from './reading.js';

const NAMED: Readonly<Record<string, FloatType>> = { float32: 'f32', float16: 'f16', bfloat16: 'bf16' };

/** bfloat16 where nothing tells. */
export function modelType({ config, tensors }: Pick<Checkpoint, 'config' | 'tensors'>): FloatType {
  const text = textPart(config).config;
  const value = text.dtype ?? text.torch_dtype;
  const name = typeof value === 'string' ? value.replace(/^torch\./, '') : '';
  const named = Object.hasOwn(NAMED, name) ? NAMED[name] : undefined;
  if (named) return named;
  for (const tensor of tensors.values()) {
    // Norms and routers may be kept in a wider type than what is multiplied.
    const type = tensor.shape.length >= 2 ? floatTypeOf(tensor) : undefined;
    if (type) return type;
  }
  return 'bf16';
}
