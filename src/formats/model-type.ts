// The type of a model's values once they are expanded: what its configuration says, or else what its plain tensors have.

import type { FloatType } from '../../offload/index.js';
import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { textPart } from '../checkpoint/text-part.js';
import { floatTypeOf } from './reading.js';

const NAMED: Readonly<Record<string, FloatType>> = { float32: 'f32', float16: 'f16', bfloat16: 'bf16' };

/** What lies beside codes has types of its own. */
const BESIDE_CODES = /(scale(_inv|_2)?|scales|absmax|quant_map)$/;

/** bfloat16 where nothing tells. */
export function modelType({ config, tensors }: Pick<Checkpoint, 'config' | 'tensors'>): FloatType {
  const text = textPart(config).config;
  const value = text.dtype ?? text.torch_dtype;
  const name = typeof value === 'string' ? value.replace(/^torch\./, '') : '';
  const named = Object.hasOwn(NAMED, name) ? NAMED[name] : undefined;
  if (named) return named;
  // Norms and routers may be kept in a wider type than what is multiplied: most bytes tell.
  const bytes = new Map<FloatType, number>();
  for (const tensor of tensors.values()) {
    const type =
      tensor.shape.length >= 2 && !BESIDE_CODES.test(tensor.name) ? floatTypeOf(tensor) : undefined;
    if (type) bytes.set(type, (bytes.get(type) ?? 0) + tensor.sizeBytes);
  }
  const [most] = [...bytes].sort(([, a], [, b]) => b - a);
  return most?.[0] ?? 'bf16';
}
