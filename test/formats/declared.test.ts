// What configurations say of stored weights: what is read passes, and everything else is refused by its name, before a download.

import { describe, expect, test } from 'vitest';
import { openModel } from '../../src/engine/open-model.js';
import { shapeModel } from '../../src/engine/shape.js';
import { readDeclared } from '../../src/formats/declared.js';
import { schemeOf } from '../../src/formats/schemes.js';
import { buildArchitecture } from '../../src/models/registry.js';
import { changedCheckpoint } from '../helpers/changed-checkpoint.js';
import { failureOf, setting } from '../helpers/hub-setting.js';
import { BLOCKS, STYLES } from './styles.js';

const LLAMA = {
  model_type: 'llama',
  hidden_size: 64,
  vocab_size: 100,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  intermediate_size: 64,
};
const groups = (weights: object) => ({ group_0: { targets: ['Linear'], weights } });
const compressed = (more: object) => ({ quant_method: 'compressed-tensors', ...more });

const REFUSED: readonly (readonly [Record<string, unknown>, RegExp])[] = [
  [
    { quant_method: 'quark', export: {} },
    /quantization_config is "quark": weights .* not read \(read: fp8, .*bitsandbytes/,
  ],
  [{ quant_method: 'hqq', nbits: 4 }, /"hqq" with 4 bits/],
  [{ quant_method: 'auto-round', bits: 4 }, /"auto-round" with 4 bits/],
  [{ quant_method: 'one of next year' }, /"one of next year"/],
  [{}, /quantization_config is \{\}/],
  [{ quant_method: 'fp8', fmt: 'e5m2' }, /fmt "e5m2" is not supported/],
  [{ quant_method: 'fp8', weight_block_size: [0, 128] }, /weight_block_size \[0,128\]/],
  [{ quant_method: 'fp8', weight_block_size: 128 }, /weight_block_size must be a list of 2 numbers/],
  [{ quant_method: 'gptq', bits: 5 }, /bits 5 is not supported; supported: 2, 3, 4, 8/],
  [{ quant_method: 'gptq' }, /bits or w_bit or wbits must be/],
  [{ quant_method: 'gptq', bits: 4, checkpoint_format: 'marlin' }, /checkpoint_format "marlin"/],
  [{ quant_method: 'gptq', bits: 4, format: 'bitblas' }, /format "bitblas"/],
  [{ quant_method: 'gptq', bits: 4, is_marlin_format: true }, /is_marlin_format true/],
  [{ quant_method: 'gptq', bits: 4, group_size: 0 }, /group_size 0/],
  [{ quant_method: 'gptq', bits: 4, pack_dtype: 'int64' }, /pack_dtype "int64"/],
  [{ quant_method: 'gptq', bits: 4, dynamic: { '.*up.*': { bits: 6 } } }, /dynamic: bits 6/],
  [{ quant_method: 'awq', bits: 8 }, /bits 8/],
  [{ quant_method: 'awq', bits: 4, version: 'gemv' }, /version "gemv"/],
  [{ quant_method: 'awq', bits: 4, version: 'Marlin' }, /version "marlin"/],
  [
    { quant_method: 'bitsandbytes', load_in_4bit: true, bnb_4bit_quant_type: 'int4' },
    /bnb_4bit_quant_type "int4"/,
  ],
  [{ quant_method: 'modelopt', quant_algo: 'W4A8_AWQ' }, /quant_algo "W4A8_AWQ"/],
  [compressed({ format: 'marlin-24' }), /format "marlin-24"/],
  [
    compressed({ format: 'pack-quantized', config_groups: groups({ num_bits: 3, type: 'int' }) }),
    /num_bits 3/,
  ],
  [
    compressed({ format: 'int-quantized', sparsity_config: { format: 'sparse-24-bitmask' } }),
    /sparsity_config "sparse-24/,
  ],
  [
    compressed({ format: 'int-quantized', transform_config: { config_groups: { a: {} } } }),
    /transform_config/,
  ],
  [
    compressed({ config_groups: { group_0: { format: 'sparse-bitmask', weights: { num_bits: 4 } } } }),
    /format "sparse-bitmask"/,
  ],
];

describe('refused', () => {
  test.each(REFUSED)('%j', (quantization, message) => {
    const config = { ...LLAMA, quantization_config: quantization };
    expect(() => buildArchitecture(config, 'config.json')).toThrow(message);
    expect(() => shapeModel(config, 'config.json')).toThrow(message);
  });

  test('MLX, and what llm-compressor wrote at first', () => {
    expect(() => readDeclared({ quantization: { bits: 4, group_size: 64 } }, 'config.json')).toThrow(
      /quantization is quantised with 4 bits/,
    );
    const first = { compression_config: { format: 'marlin-24' } };
    expect(() => readDeclared(first, 'config.json')).toThrow(/compression_config: format "marlin-24"/);
  });

  test('before anything large is downloaded, also where only a quantiser’s own file tells', async () => {
    const own: [string, object, RegExp][] = [
      [
        'hf_quant_config.json',
        { quantization: { quant_algo: 'W4A8_AWQ' } },
        /hf_quant_config\.json: quant_algo "W4A8_AWQ"/,
      ],
      ['quantize_config.json', { bits: 7 }, /quantize_config\.json: bits 7/],
      ['quant_config.json', { w_bit: 4, version: 'GEMV' }, /quant_config\.json: version "gemv"/],
    ];
    for (const [name, content, message] of own) {
      const { hub, resolve } = await setting({
        'config.json': JSON.stringify(LLAMA),
        [name]: JSON.stringify(content),
        'model.safetensors': 'x',
      });
      expect((await failureOf(resolve())).message).toMatch(message);
      expect(hub.downloads('model.safetensors')).toEqual([]);
    }
  });

  test('and where only the names of an index tell', async () => {
    const { hub, resolve } = await setting({
      'config.json': JSON.stringify(LLAMA),
      'model.safetensors.index.json': JSON.stringify({
        weight_map: { 'a.W_q': 'model-00001-of-00001.safetensors' },
      }),
      'model-00001-of-00001.safetensors': 'x',
    });
    expect((await failureOf(resolve())).message).toMatch(/tensor a\.W_q is quantised by HQQ/);
    expect(hub.downloads('model-00001-of-00001.safetensors')).toEqual([]);
  });

  test('sizes from a configuration alone, unless it is told what of', () => {
    const config = { ...LLAMA, quantization_config: { quant_method: 'gptq', bits: 4 } };
    expect(() => shapeModel(config, 'config.json')).toThrow(/stored by gptq, .*give the folder/);
    expect(shapeModel(config, 'config.json', 'int4').model.blocks[0]?.matrices[0]?.format.name).toBe(
      'packed4',
    );
    const fp8 = { ...LLAMA, quantization_config: { quant_method: 'fp8' } };
    expect(shapeModel(fp8, 'config.json').model.blocks[0]?.matrices[0]?.format.name).toBe('e4m3');
  });
});

describe('passed', () => {
  test.each([...STYLES, BLOCKS].map(({ label, config }) => [label, config] as const))(
    '%s',
    (_label, config) => {
      const all = { ...LLAMA, quantization_config: config };
      expect(buildArchitecture(all, 'config.json').architecture).toBe('llama');
    },
  );

  test('null, and nothing', () => {
    expect(readDeclared({ quantization_config: null }, 'config.json').method).toBeUndefined();
    expect(readDeclared({}, 'config.json').method).toBeUndefined();
  });

  test('files of quantisers where config.json is silent, which otherwise counts', async () => {
    const folder = await changedCheckpoint('llama', { json: { 'quantize_config.json': { bits: 6 } } });
    await expect(openModel(folder)).rejects.toThrow(/quantize_config\.json: bits 6/);
    const told = await changedCheckpoint('llama', {
      config: { quantization_config: { quant_method: 'fp8' } },
      json: { 'quantize_config.json': { bits: 6 } },
    });
    await expect(openModel(told)).resolves.toBeDefined();
  });
});

test('schemes: a name counts before a pattern, a pattern before a class', () => {
  const { schemes } = readDeclared(
    {
      quantization_config: compressed({
        format: 'mixed-precision',
        config_groups: {
          a: { targets: ['Linear'], weights: { num_bits: 8, type: 'float' } },
          b: { targets: ['re:.*self_attn.*'], weights: { num_bits: 8, type: 'int', group_size: 64 } },
          c: {
            targets: ['layers.3.self_attn.q_proj'],
            weights: { num_bits: 4, type: 'int', group_size: -1 },
          },
          activations: { targets: ['Linear'], weights: null, input_activations: {} },
        },
      }),
    },
    'config.json',
  );
  const found = (module: string) => schemes.indexOf(schemeOf(schemes, module, 'config.json') as never);
  expect(found('model.layers.3.self_attn.q_proj')).toBe(2);
  expect(found('model.layers.13.self_attn.q_proj')).toBe(1);
  expect(found('model.layers.3.mlp.up_proj')).toBe(0);
  expect(schemes[2]?.groupSize).toBeUndefined();
  const broken = [{ ...(schemes[0] as (typeof schemes)[0]), targets: ['re:(['] }];
  expect(() => schemeOf(broken, 'a', 'config.json')).toThrow(/no pattern that can be read/);
});
