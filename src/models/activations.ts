// Names that configurations give to activation functions.

import type { Activation } from '../../offload/index.js';
import type { ConfigReader } from './config-reader.js';

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  relu: 'relu',
  gelu: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_fast: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  quick_gelu: 'gelu_quick',
  silu: 'silu',
  swish: 'silu',
};

export function readActivation(config: ConfigReader, names: readonly string[], fallback: string): Activation {
  const name = config.text(names, fallback);
  const activation = ACTIVATIONS[name];
  if (!activation)
    throw config.unsupported(names[0] ?? 'activation', name, Object.keys(ACTIVATIONS).join(', '));
  return activation;
}
