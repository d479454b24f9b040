// Names that configurations give to activation functions.

import type { Activation } from '../../offload/index.js';
import { type ConfigReader, named } from '../checkpoint/config-reader.js';

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  linear: 'none',
  relu: 'relu',
  gelu: 'gelu',
  gelu_python: 'gelu',
  // One formula under many names: they differ in how it is evaluated.
  gelu_new: 'gelu_tanh',
  gelu_fast: 'gelu_tanh',
  gelu_accurate: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  gelu_python_tanh: 'gelu_tanh',
  quick_gelu: 'gelu_quick',
  silu: 'silu',
  swish: 'silu',
  // So et al. 2021 (Primer).
  relu2: 'relu2',
};

/** The activation that the first of `names` that is present names. */
export function readActivation(config: ConfigReader, names: readonly string[], fallback: string): Activation {
  const name = config.text(names, fallback);
  const activation = named(ACTIVATIONS, name);
  if (!activation)
    throw config.unsupported(names[0] ?? 'activation', name, Object.keys(ACTIVATIONS).join(', '));
  return activation;
}
