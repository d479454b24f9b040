// Every way in which makers store a matrix: how, what config.json says then, and what its bits cannot hold.

import {
  awq,
  bitsandbytes,
  by,
  bytes,
  type Encode,
  everything,
  fp8,
  gptq,
  int8Rows,
  mxfp4,
  nvfp4,
  one,
  packed,
} from './encoders.js';

export interface Style {
  readonly label: string;
  /** quantization_config. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Largest root mean square of what is lost, of that of the values. */
  readonly error: number;
  readonly encode: Encode;
}

/** compressed-tensors with one group of modules. */
function compressed(format: string, weights: Readonly<Record<string, unknown>>) {
  return {
    quant_method: 'compressed-tensors',
    format,
    ignore: ['lm_head'],
    config_groups: { group_0: { targets: ['Linear'], input_activations: null, weights } },
  };
}

const INT4 = { num_bits: 4, type: 'int', symmetric: true, strategy: 'group', group_size: 32 };

export const STYLES: readonly Style[] = [
  {
    label: 'fp8, blocks with short last ones',
    config: { quant_method: 'fp8', weight_block_size: [48, 48] },
    error: 0.04,
    encode: fp8({ rowGroup: by(48), inputGroup: by(48), type: 'F32', suffix: '_scale_inv' }),
  },
  {
    label: 'fp8, bf16 scales',
    config: { quant_method: 'fp8', weight_block_size: [32, 64] },
    error: 0.04,
    encode: fp8({ rowGroup: by(32), inputGroup: by(64), type: 'BF16', suffix: '_scale_inv' }),
  },
  {
    label: 'fp8, one scale of a matrix',
    config: { quant_method: 'fp8', weight_block_size: null, activation_scheme: 'static' },
    error: 0.04,
    encode: fp8({
      rowGroup: everything,
      inputGroup: everything,
      type: 'F32',
      suffix: '_scale_inv',
      shape: () => [],
    }),
  },
  {
    label: 'fp8 as DeepSeek V4, e8m0 scales of blocks',
    config: { quant_method: 'fp8', weight_block_size: [32, 32], scale_fmt: 'ue8m0' },
    error: 0.04,
    encode: fp8({ rowGroup: by(32), inputGroup: by(32), type: 'F8_E8M0', suffix: '.scale' }),
  },
  {
    label: 'mxfp8',
    config: { quant_method: 'mxfp8' },
    error: 0.04,
    encode: fp8({ rowGroup: one, inputGroup: by(32), type: 'U8', suffix: '_scale_inv' }),
  },
  {
    label: 'fbgemm_fp8',
    config: { quant_method: 'fbgemm_fp8', activation_scale_ub: 1200 },
    error: 0.04,
    encode: fp8({ rowGroup: one, inputGroup: everything, type: 'F32', suffix: '_scale' }),
  },
  {
    label: 'float-quantized, one scale of a matrix',
    config: compressed('float-quantized', { num_bits: 8, type: 'float', strategy: 'tensor' }),
    error: 0.04,
    encode: fp8({
      rowGroup: everything,
      inputGroup: everything,
      type: 'BF16',
      suffix: '_scale',
      shape: () => [1],
    }),
  },
  {
    label: 'float-quantized, blocks',
    config: compressed('float-quantized', {
      num_bits: 8,
      type: 'float',
      strategy: 'block',
      block_structure: '48x32',
    }),
    error: 0.04,
    encode: fp8({ rowGroup: by(48), inputGroup: by(32), type: 'BF16', suffix: '_scale' }),
  },
  {
    label: 'ModelOpt FP8',
    config: { quant_method: 'modelopt', quant_algo: 'FP8' },
    error: 0.04,
    encode: fp8({
      rowGroup: everything,
      inputGroup: everything,
      type: 'F32',
      suffix: '_scale',
      shape: () => [1, 1],
    }),
  },
  {
    label: 'ModelOpt FP8 in blocks',
    config: { quant_method: 'modelopt', quant_algo: 'FP8_PB_WO' },
    error: 0.04,
    encode: fp8({
      rowGroup: by(128),
      inputGroup: by(128),
      type: 'F32',
      suffix: '_scale',
      shape: (rows, G) => [rows, 1, G, 1],
    }),
  },
  {
    label: 'mxfp4-pack-quantized',
    config: compressed('mxfp4-pack-quantized', {
      num_bits: 4,
      type: 'float',
      strategy: 'group',
      group_size: 32,
    }),
    error: 0.25,
    encode: mxfp4({ codes: ['_packed', 'U8'], scales: ['_scale', 'U8'] }),
  },
  {
    label: 'FP4 as DeepSeek V4',
    config: { quant_method: 'fp8', weight_block_size: [128, 128], expert_dtype: 'fp4' },
    error: 0.25,
    encode: mxfp4({ codes: ['', 'I8'], scales: ['.scale', 'F8_E8M0'] }),
  },
  {
    label: 'NVFP4 of compressed-tensors',
    config: compressed('nvfp4-pack-quantized', {
      num_bits: 4,
      type: 'float',
      strategy: 'tensor_group',
      group_size: 16,
    }),
    error: 0.2,
    encode: nvfp4('compressed-tensors'),
  },
  {
    label: 'NVFP4 of ModelOpt',
    config: { quant_method: 'modelopt', quant_algo: 'NVFP4', group_size: 16 },
    error: 0.2,
    encode: nvfp4('modelopt'),
  },
  {
    label: 'pack-quantized, 4 bits in groups',
    config: compressed('pack-quantized', INT4),
    error: 0.15,
    encode: packed({ bits: 4, group: 32, symmetric: true, type: 'BF16' }),
  },
  {
    label: 'pack-quantized, 4 bits with zeros and scattered groups',
    config: compressed('pack-quantized', { ...INT4, symmetric: false, actorder: 'group' }),
    error: 0.15,
    encode: packed({ bits: 4, group: 32, symmetric: false, type: 'F16', isScattered: true }),
  },
  {
    label: 'pack-quantized, 4 bits with zeros, a short last group',
    config: compressed('pack-quantized', { ...INT4, symmetric: false, group_size: 48 }),
    error: 0.15,
    encode: packed({ bits: 4, group: 48, symmetric: false, type: 'F32' }),
  },
  {
    label: 'pack-quantized, 8 bits by rows',
    config: compressed('pack-quantized', { num_bits: 8, type: 'int', symmetric: true, strategy: 'channel' }),
    error: 0.02,
    encode: packed({ bits: 8, symmetric: true, type: 'F32' }),
  },
  {
    label: 'pack-quantized, 8 bits with zeros',
    config: compressed('pack-quantized', { ...INT4, num_bits: 8, symmetric: false }),
    error: 0.02,
    encode: packed({ bits: 8, group: 32, symmetric: false, type: 'BF16' }),
  },
  {
    label: 'int-quantized with zeros',
    config: compressed('int-quantized', { num_bits: 8, type: 'int', symmetric: false, strategy: 'channel' }),
    error: 0.02,
    encode: bytes({ symmetric: false }),
  },
  {
    label: 'int-quantized in groups',
    config: compressed('int-quantized', { ...INT4, num_bits: 8 }),
    error: 0.02,
    encode: bytes({ symmetric: true, group: 32 }),
  },
  {
    label: 'AWQ',
    config: { quant_method: 'awq', bits: 4, group_size: 32, version: 'gemm', zero_point: true },
    error: 0.15,
    encode: awq,
  },
  ...([2, 3, 4, 8] as const).map((bits) => ({
    label: `GPTQ of ${bits} bits`,
    config: { quant_method: 'gptq', bits, group_size: 32, desc_act: false, sym: true },
    error: [0, 0, 0.7, 0.3, 0.15, 0, 0, 0, 0.02][bits] ?? 0,
    encode: gptq({ bits, group: 32, version: 1, index: 'plain' }),
  })),
  ...([2, 3, 4, 8] as const).map((bits) => ({
    label: `GPTQ of ${bits} bits, second version, asymmetric, scattered groups`,
    config: {
      quant_method: 'gptq',
      bits,
      group_size: 32,
      desc_act: true,
      sym: false,
      checkpoint_format: 'gptq_v2',
    },
    error: [0, 0, 0.7, 0.3, 0.15, 0, 0, 0, 0.02][bits] ?? 0,
    encode: gptq({ bits, group: 32, version: 2, index: 'scattered', symmetric: false }),
  })),
  {
    label: 'GPTQ without an index, one group',
    config: { quant_method: 'gptq', bits: 4, group_size: -1, desc_act: false },
    error: 0.2,
    encode: gptq({ bits: 4, group: -1, version: 1, index: 'none' }),
  },
  {
    label: 'bitsandbytes NF4, nested, kept as bf16',
    config: {
      quant_method: 'bitsandbytes',
      load_in_4bit: true,
      bnb_4bit_quant_type: 'nf4',
      bnb_4bit_use_double_quant: true,
    },
    error: 0.15,
    encode: bitsandbytes({ type: 'nf4', isNested: true, storage: 'BF16' }),
  },
  {
    label: 'bitsandbytes FP4',
    config: { load_in_4bit: true, bnb_4bit_quant_type: 'fp4' },
    error: 0.25,
    encode: bitsandbytes({ type: 'fp4' }),
  },
  {
    label: 'bitsandbytes int8',
    config: { quant_method: 'bitsandbytes', load_in_8bit: true },
    error: 0.02,
    encode: int8Rows,
  },
];

/** gpt-oss's names, for experts that are stored as one tensor. */
export const BLOCKS: Style = {
  label: 'MXFP4 blocks of fused experts',
  config: { quant_method: 'mxfp4' },
  error: 0.25,
  encode: mxfp4({ codes: ['_blocks', 'U8'], scales: ['_scales', 'U8'], blocks: true }),
};
