// Damage to stored weights that opening a model does not look at: the run ends with the layer's name, and gives no wrong text.

import { expect, it } from 'vitest';
import { GiB, present } from '../../offload/index.js';
import { Engine } from '../../src/engine/engine.js';
import { generate } from '../../src/engine/generate.js';
import { openModel } from '../../src/engine/open-model.js';
import type { TestTensor } from '../helpers/safetensors.js';
import { storedAs } from './stored-as.js';
import { STYLES } from './styles.js';

const PROMPT = Int32Array.of(3, 50, 7, 120, 9);
const NEW_TOKENS = 4;

/** The tensor with one byte written over. */
const spoilt = (name: string, at: number, byte: number) => (all: readonly TestTensor[]) =>
  all.map((tensor) => {
    if (tensor.name !== name) return tensor;
    const data = Uint8Array.from(tensor.data ?? []);
    data[at] = byte;
    return { ...tensor, data };
  });

it.each([
  ['fp8, blocks with short last ones', 'weight', 70, 0x7f],
  ['mxfp8', 'weight', 0, 0xff],
  ['ModelOpt FP8', 'weight', 4095, 0x7f],
  // A power of two that is a number, and too large for what it multiplies.
  ['fp8 as DeepSeek V4, e8m0 scales of blocks', 'scale', 1, 254],
])('%s: a code or a scale that makes no finite number', async (label, part, at, byte) => {
  const style = present(
    STYLES.find((candidate) => candidate.label === label),
    label,
  );
  const name = `model.layers.1.self_attn.q_proj.${part}`;
  const opened = await openModel(await storedAs('llama', style, { change: spoilt(name, at, byte) }));
  const workload = {
    sequences: 1,
    contextTokens: PROMPT.length + NEW_TOKENS,
    promptTokens: PROMPT.length,
    output: 'tokens',
  } as const;
  const engine = await Engine.open(opened, { offload: 'dram', dramBudgetBytes: GiB, workload });
  try {
    const [result] = await generate(engine.executor, [{ index: 0, promptTokens: PROMPT }], {
      batchSize: 1,
      maxNewTokens: NEW_TOKENS,
      stopTokens: new Set(),
    });
    expect(result?.problem?.message).toMatch(
      /logits are not finite: NaN or infinite values begin in block 1 \(of/,
    );
  } finally {
    await engine.close();
  }
});
