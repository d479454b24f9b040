// What looks odd in stored weights and is none of it: indices that are not used, zeros that are right, types that are not told.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { present } from '../../offload/index.js';
import { openModel } from '../../src/engine/open-model.js';
import type { TestTensor } from '../helpers/safetensors.js';
import { matricesOf } from './matrix-values.js';
import { storedAs } from './stored-as.js';
import { STYLES, type Style } from './styles.js';

const style = (label: string): Style =>
  present(
    STYLES.find((candidate) => candidate.label === label),
    label,
  );
const FP8 = style('fp8, blocks with short last ones');
const SCATTERED = style('pack-quantized, 4 bits with zeros and scattered groups');
const GPTQ = style('GPTQ of 4 bits');
const Q = 'model.layers.0.self_attn.q_proj';

it('an index with -1 anywhere, which compressed-tensors does not use', async () => {
  const folder = await storedAs('llama', SCATTERED, {
    blocks: 1,
    change: (all) =>
      all.map((tensor) => {
        if (tensor.name !== `${Q}.weight_g_idx`) return tensor;
        const data = Int32Array.from(new Int32Array(Uint8Array.from(tensor.data ?? []).buffer));
        data[2] = -1;
        return { ...tensor, data: new Uint8Array(data.buffer) };
      }),
  });
  const matrix = matricesOf(await openModel(folder)).get('0 self_attn.q_proj.weight');
  expect(matrix?.format.name).toBe('packed4');
  expect(matrix?.parts.groups).toBeUndefined();
});

it('an index that says nothing new is left out, a scattered one is not', async () => {
  const groups = async (stored: Style) => {
    const opened = await openModel(await storedAs('llama', stored, { blocks: 1 }));
    return matricesOf(opened).get('0 self_attn.q_proj.weight')?.parts.groups;
  };
  expect(await groups(GPTQ)).toBeUndefined();
  expect(await groups(style('GPTQ of 4 bits, second version, asymmetric, scattered groups'))).toBeDefined();
});

it('an index whose groups are as large as other modules’ counts, and not what the scales imply', async () => {
  const dynamic = { '+:.*k_proj': { group_size: 64 } };
  const folder = await storedAs('llama', GPTQ, {
    blocks: 1,
    config: { ...GPTQ.config, dynamic },
    change: (all) =>
      all.map((tensor) =>
        tensor.name === `${Q}.g_idx` ? { ...tensor, data: new Uint8Array(4 * 64) } : tensor,
      ),
  });
  const matrices = matricesOf(await openModel(folder));
  expect(matrices.get('0 self_attn.q_proj.weight')?.parts.groups).toBeDefined();
  expect(matrices.get('0 self_attn.v_proj.weight')?.parts.groups).toBeUndefined();
});

it.each([
  ['pack-quantized, 4 bits with zeros and scattered groups', 'weight_g_idx', -1],
  ['GPTQ of 4 bits, second version, asymmetric, scattered groups', 'g_idx', -1],
  ['GPTQ of 4 bits, second version, asymmetric, scattered groups', 'g_idx', undefined],
  ['GPTQ of 4 bits, second version, asymmetric, scattered groups', 'g_idx', 'plain'],
] as const)('a mixture of %s where an expert has no %s of use (%s)', async (label, name, filling) => {
  const stored = style(label);
  const size = 32;
  const folder = await storedAs('mixtral', stored, {
    blocks: 1,
    change: (all) =>
      all.flatMap((tensor) => {
        if (!/layers\.0\..*experts\.1\./.test(tensor.name) || !tensor.name.endsWith(name)) return [tensor];
        if (filling === undefined) return [];
        const data = Int32Array.from({ length: tensor.shape[0] ?? 0 }, (_, k) =>
          filling === 'plain' ? Math.floor(k / size) : filling,
        );
        return [{ ...tensor, data: new Uint8Array(data.buffer) }];
      }),
  });
  const opened = await openModel(folder);
  const [first, second] = [0, 1].map((e) =>
    matricesOf(opened).get(`0 block_sparse_moe.experts.${e}.w1.weight`),
  );
  expect(first?.parts.groups).toBeDefined();
  expect(second?.parts.groups === undefined).toBe(filling !== 'plain');
});

it('an index of GPTQ that is partly -1 is damaged, and not unused', async () => {
  const folder = storedAs('llama', style('GPTQ of 4 bits, second version, asymmetric, scattered groups'), {
    blocks: 1,
    change: (all) =>
      all.map((tensor) => {
        if (tensor.name !== `${Q}.g_idx`) return tensor;
        const data = Int32Array.from(new Int32Array(Uint8Array.from(tensor.data ?? []).buffer));
        data[3] = -1;
        return { ...tensor, data: new Uint8Array(data.buffer) };
      }),
  });
  await expect(openModel(await folder)).rejects.toThrow(/g_idx puts input 3 into group -1/);
});

it('zeros of scales and codes together', async () => {
  const folder = await storedAs('llama', FP8, {
    blocks: 1,
    change: (all) =>
      all.map((tensor) =>
        tensor.name.startsWith(`${Q}.weight`)
          ? { ...tensor, data: Buffer.alloc(tensor.data?.length ?? 0) }
          : tensor,
      ),
  });
  await expect(openModel(folder)).resolves.toBeDefined();
});

const isScale = ({ name }: { readonly name: string }) => /scale/.test(name);
const scalesFirst = (all: readonly TestTensor[]) => [
  ...all.filter(isScale),
  ...all.filter((tensor) => !isScale(tensor)),
];

it('types of weights come from config.json, or from its plain tensors', async () => {
  const typeOf = async (dtype: string | undefined) => {
    const folder = await storedAs('llama', FP8, { blocks: 1, change: (all) => all });
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>;
    const { model } = await openModel(
      await storedAs('llama', FP8, { json: { 'config.json': { ...config, dtype } }, change: scalesFirst }),
    );
    return model.blocks[0]?.matrices[0]?.format.type;
  };
  expect(await typeOf('float16')).toBe('f16');
  expect(await typeOf('float32')).toBe('f32');
  // The scales are of f32, and first in the file.
  expect(await typeOf(undefined)).toBe('bf16');
});
