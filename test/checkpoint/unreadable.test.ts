// What cannot be read is named as such, by a folder's files and configuration alone.

import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openModel } from '../../src/engine/open-model.js';
import { buildArchitecture } from '../../src/models/registry.js';
import { failureOf, setting } from '../helpers/hub-setting.js';
import { tempFolder } from '../helpers/temp-folder.js';

describe('configurations', () => {
  test.each<[Record<string, unknown>, RegExp]>([
    [{ model_type: 'bert' }, /model_type "bert" is not supported, since it is an encoder/],
    [{ model_type: 'modernbert' }, /encoder/],
    [{ model_type: 't5' }, /an encoder and a decoder/],
    [{ model_type: 'somebart', is_encoder_decoder: true }, /an encoder and a decoder/],
    [
      { model_type: 'idefics', text_config: { model_type: 'llama' } },
      /wraps a language model of type "llama"/,
    ],
    [
      { model_type: 'gemma3', text_config: { model_type: 'mamba' } },
      /"mamba" is not supported, since it is the text part of gemma3/,
    ],
    [{ model_type: 'internvl_chat', llm_config: {} }, /wraps a language model together/],
    [{ model_type: 'qwen2_vl', vision_config: {} }, /reads more than text/],
    [{ model_type: 'whisper' }, /no language model/],
    [{ model_type: 'special', auto_map: { AutoModel: 'x.Y' } }, /code is never executed/],
    [{ model_type: 'gpt5' }, /model_type "gpt5" is not supported; supported: gpt2, gpt_bigcode/],
    [
      { model_type: 'new_one' },
      /model_type "new_one" is not supported; supported: bailing…, bloom…, cohere…/,
    ],
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
