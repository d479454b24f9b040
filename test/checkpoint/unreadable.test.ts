// What cannot be read is named as such, by a folder's files and configuration alone.

import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openModel } from '../../src/engine/open-model.js';
import { shapeModel } from '../../src/engine/shape.js';
import { buildArchitecture } from '../../src/models/registry.js';
import { changedCheckpoint } from '../helpers/changed-checkpoint.js';
import { failureOf, setting } from '../helpers/hub-setting.js';
import { tempFolder } from '../helpers/temp-folder.js';

const LLAMA = { model_type: 'llama', hidden_size: 64, vocab_size: 100, num_hidden_layers: 1 };

describe('configurations', () => {
  test.each<[Record<string, unknown>, RegExp]>([
    [{ quant_method: 'gptq', bits: 4, group_size: 128 }, /quantization_config is gptq with 4 bits/],
    [{ quant_method: 'awq', bits: 4 }, /awq with 4 bits/],
    [{ quant_method: 'fp8', weight_block_size: [128, 128] }, /quantization_config is fp8: its weights/],
    [{ quant_method: 'mxfp4' }, /mxfp4/],
    [{ quant_method: 'compressed-tensors', format: 'int-quantized' }, /compressed-tensors/],
    [{ quant_method: 'bitsandbytes', load_in_4bit: true }, /bitsandbytes with 4 bits/],
    [{ load_in_8bit: true }, /quantised with 8 bits/],
    [{ quant_algo: 'NVFP4' }, /NVFP4/],
    [{ quant_method: 'one of next year' }, /one of next year/],
    [{}, /quantization_config is \{\}/],
  ])('quantised: %j', (quantization, message) => {
    const config = { ...LLAMA, quantization_config: quantization };
    expect(() => buildArchitecture(config, 'config.json')).toThrow(message);
    expect(() => shapeModel(config, 'config.json')).toThrow(/use the checkpoint that they were made from/);
  });

  test('quantised by MLX and by the first llm-compressor; null is none', () => {
    for (const key of ['quantization', 'compression_config']) {
      expect(() => buildArchitecture({ ...LLAMA, [key]: { bits: 4 } }, 'config.json')).toThrow(
        `${key} is quantised with 4 bits`,
      );
    }
    const plain = { ...LLAMA, num_attention_heads: 4, intermediate_size: 64, quantization_config: null };
    expect(buildArchitecture(plain, 'config.json').architecture).toBe('llama');
  });

  test.each<[Record<string, unknown>, RegExp]>([
    [{ model_type: 'bert' }, /model_type "bert" is not supported, since it is an encoder/],
    [{ model_type: 'modernbert' }, /encoder/],
    [{ model_type: 't5' }, /an encoder and a decoder/],
    [{ model_type: 'somebart', is_encoder_decoder: true }, /an encoder and a decoder/],
    [{ model_type: 'llava', text_config: { model_type: 'llama' } }, /wraps a language model of type "llama"/],
    [{ model_type: 'internvl_chat', llm_config: {} }, /wraps a language model together/],
    [{ model_type: 'qwen2_vl', vision_config: {} }, /reads more than text/],
    [{ model_type: 'whisper' }, /no language model/],
    [{ model_type: 'special', auto_map: { AutoModel: 'x.Y' } }, /code is never executed/],
    [{ model_type: 'gpt5' }, /model_type "gpt5" is not supported; supported: bloom, falcon/],
  ])('other kinds: %j', (config, message) => {
    expect(() => buildArchitecture(config, 'config.json')).toThrow(message);
  });
});

const KINDS: [string, Record<string, string>, RegExp][] = [
  [
    'GGUF',
    { 'model-Q4_K_M.gguf': '', 'README.md': '' },
    /holds model-Q4_K_M\.gguf: GGUF weights are not read/,
  ],
  ['GGUF with a configuration', { 'config.json': '{"model_type":"llama"}', 'm.gguf': '' }, /GGUF/],
  [
    'an adapter',
    {
      'adapter_config.json': '{"peft_type":"LORA","base_model_name_or_path":"org/base"}',
      'adapter_model.safetensors': '',
    },
    /is an adapter \(LoRA or another of PEFT's\) of "org\/base".*merge_and_unload/,
  ],
  [
    'an adapter with its base’s configuration',
    {
      'config.json': '{"model_type":"llama"}',
      'adapter_config.json': '{"base_model_name_or_path":null}',
      'adapter_model.safetensors': '',
    },
    /is an adapter \(LoRA or another of PEFT's\), which is not applied/,
  ],
  ['a pipeline', { 'model_index.json': '{}', 'unet/config.json': '{}' }, /pipeline of diffusers/],
  ['embeddings', { 'modules.json': '[]', 'onnx/model.onnx': '' }, /sentence-transformers/],
  [
    'the authors’ format',
    { 'params.json': '{}', 'consolidated.00.pth': '' },
    /format of the model’s authors/,
  ],
  ['ONNX', { 'config.json': '{"model_type":"llama"}', 'model.onnx': '' }, /ONNX is not read/],
  ['TensorFlow', { 'config.json': '{"model_type":"gpt2"}', 'tf_model.h5': '' }, /TensorFlow/],
  ['Flax', { 'config.json': '{"model_type":"gpt2"}', 'flax_model.msgpack': '' }, /Flax/],
];

describe.each(KINDS)('%s', (_what, files, message) => {
  test('in a folder', async () => {
    const folder = tempFolder();
    for (const [name, content] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, name)), { recursive: true });
      writeFileSync(join(folder, name), content);
    }
    const error = await failureOf(openModel(folder));
    expect(error).toMatchObject({ code: 'UNSUPPORTED', message: expect.stringMatching(message) });
  });

  test('on the hub, of which nothing large is fetched', async () => {
    const { hub, resolve } = await setting(files);
    const error = await failureOf(resolve());
    expect(error).toMatchObject({ code: 'UNSUPPORTED', message: expect.stringMatching(message) });
    const fetched = hub.requests.filter(({ method }) => method === 'GET').map(({ path }) => path);
    expect(fetched.filter((path) => /safetensors|gguf|pth|onnx|h5|msgpack/.test(path))).toEqual([]);
  });
});

test('a GGUF file in place of a folder', async () => {
  const path = join(tempFolder(), 'model.gguf');
  writeFileSync(path, 'GGUF');
  await expect(openModel(path)).rejects.toThrow(/is a GGUF file, which is not read/);
});

test('what only a quantiser’s own file tells is refused before the weights are downloaded', async () => {
  const { hub, resolve } = await setting({
    'config.json': '{"model_type":"llama"}',
    'hf_quant_config.json': '{}',
    'model.safetensors': 'x',
  });
  expect((await failureOf(resolve())).message).toMatch(/hf_quant_config\.json: its weights are quantised/);
  expect(hub.downloads('model.safetensors')).toEqual([]);
});

describe('quantised tensors without a word in the configuration', () => {
  const NAME = 'model.layers.0.self_attn.q_proj';
  test.each(['qweight', 'weight_packed', 'weight_quantized', 'SCB'])('%s', async (part) => {
    const folder = await changedCheckpoint('llama', {
      tensors: (all) => [
        ...all.filter(({ name }) => name !== `${NAME}.weight`),
        { name: `${NAME}.${part}`, dtype: 'I32', shape: [8, 8] },
      ],
    });
    await expect(openModel(folder)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(
        /q_proj\.\w+ \(I32 \[8, 8\]\) says what config\.json does not: .*quantised/,
      ),
    });
  });

  test.each(['F8_E4M3', 'I8', 'U8'])('weights of type %s', async (dtype) => {
    const folder = await changedCheckpoint('llama', {
      tensors: (all) =>
        all.map((tensor) =>
          tensor.name === `${NAME}.weight` ? { name: tensor.name, dtype, shape: tensor.shape } : tensor,
        ),
    });
    await expect(openModel(folder)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(
        new RegExp(`stored as ${dtype}; .*so use weights that are not quantised`),
      ),
    });
  });
});
