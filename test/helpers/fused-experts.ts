// A Mixtral whose experts lie in one tensor per layer, as transformers 5 holds them in memory.

import { present } from '../../offload/errors.js';
import { changedCheckpoint } from './changed-checkpoint.js';
import type { TestTensor } from './safetensors.js';

const LAYERS = 4;

/** The folder of the fixture with the first `expertCount` experts of each layer. */
export function fusedMixtral(expertCount: number): Promise<string> {
  return changedCheckpoint('mixtral', { tensors: (tensors) => fuse(tensors, expertCount) });
}

function fuse(all: readonly Required<TestTensor>[], expertCount: number): TestTensor[] {
  const stored = new Map(all.map((tensor) => [tensor.name, tensor]));
  const tensors: TestTensor[] = all.filter(({ name }) => !name.includes('block_sparse_moe'));
  for (let layer = 0; layer < LAYERS; layer++) {
    const find = (rest: string) =>
      present(stored.get(`model.layers.${layer}.block_sparse_moe.${rest}`), rest);
    const experts = Array.from({ length: expertCount }, (_, e) => e);
    const join = (name: string, parts: readonly Required<TestTensor>[], rows: number, columns: number) => ({
      name: `model.layers.${layer}.mlp.${name}`,
      dtype: 'BF16',
      shape: [expertCount, rows, columns],
      data: Buffer.concat(parts.map(({ data }) => data)),
    });
    const part = (e: number, name: string) => find(`experts.${e}.${name}.weight`);
    const gateUp = experts.flatMap((e) => [part(e, 'w1'), part(e, 'w3')]);
    tensors.push({ ...find('gate.weight'), name: `model.layers.${layer}.mlp.gate.weight` });
    tensors.push(join('experts.gate_up_proj', gateUp, 320, 64));
    const down = experts.map((e) => part(e, 'w2'));
    tensors.push(join('experts.down_proj', down, 64, 160));
  }
  return tensors;
}
