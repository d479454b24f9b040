// How a packed matrix is stored: the forms that compressed-tensors publishes, so that other programs read them too.

import { elementCount, type QuantiseTo } from '../../offload/index.js';
import type { TensorEntry } from '../checkpoint/safetensors-header.js';

export type PackedWeights = 'int8' | 'int4' | 'fp8';
/** What can be asked for. */
export const PACKED_WEIGHTS: readonly PackedWeights[] = ['int8', 'int4', 'fp8'];

export interface PackSettings {
  readonly weights: PackedWeights;
  /** Inputs that share a scale; `channel`: all of a row. Undefined: what is chosen for the model. */
  readonly groupSize: number | 'channel' | undefined;
  /** Files that each layer is spread over. */
  readonly gpus: number;
}

export interface Scheme {
  readonly weights: PackedWeights;
  /** `format` in the configuration. */
  readonly format: 'pack-quantized' | 'float-quantized';
  readonly to: QuantiseTo;
  readonly group: number | 'channel';
}

/**
 * fp8 has a scale per row, as its publishers do. Codes of whole numbers are packed whatever shares a scale: readers take
 * int-quantized for weights whose inputs are to be quantised as well.
 */
export function schemeOf(weights: PackedWeights, group: number | 'channel'): Scheme {
  if (weights === 'fp8') return { weights, format: 'float-quantized', to: 'e4m3', group: 'channel' };
  return { weights, format: 'pack-quantized', to: weights, group };
}

type ScaleType = 'f32' | 'f16' | 'bf16';
const STORED: Readonly<Record<ScaleType, string>> = { f32: 'F32', f16: 'F16', bf16: 'BF16' };

/** A float matrix of the source, [rows, inputs]. */
export interface MatrixShape {
  /** Without `.weight`. */
  readonly module: string;
  readonly rows: number;
  readonly inputs: number;
  readonly dtype: ScaleType;
}

export interface PackedParts {
  readonly codes: TensorEntry;
  readonly scales: TensorEntry;
  /** Its true size, for words that are padded. */
  readonly shape: TensorEntry | undefined;
  readonly scaleType: ScaleType;
  /** Inputs that share a scale. */
  readonly group: number;
  readonly codeRowBytes: number;
}

/**
 * What is written for a matrix. Scales of groups have the source's type; those of whole rows are so few that they are f32,
 * whose range every scale fits.
 */
export function partsOf(
  { format, to, group: wanted }: Scheme,
  { module, rows, inputs, dtype }: MatrixShape,
): PackedParts {
  const group = wanted === 'channel' ? inputs : wanted;
  const scaleType = wanted === 'channel' ? 'f32' : dtype;
  const valuesPerWord = to === 'int4' ? 8 : 4;
  const words = Math.ceil(inputs / valuesPerWord);
  const isPacked = format === 'pack-quantized';
  const codes = isPacked
    ? entry(`${module}.weight_packed`, 'I32', [rows, words])
    : entry(`${module}.weight`, 'F8_E4M3', [rows, inputs]);
  return {
    codes,
    scales: entry(`${module}.weight_scale`, STORED[scaleType], [rows, Math.ceil(inputs / group)]),
    shape: isPacked ? entry(`${module}.weight_shape`, 'I64', [2]) : undefined,
    scaleType,
    group,
    codeRowBytes: codes.sizeBytes / rows,
  };
}

const BYTES: Readonly<Record<string, number>> = {
  I32: 4,
  F8_E4M3: 1,
  I64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
};

function entry(name: string, dtype: string, shape: readonly number[]): TensorEntry {
  return { name, dtype, shape, sizeBytes: elementCount(shape) * (BYTES[dtype] ?? 0) };
}

/** @param ignore modules with matrices that stay as they are */
export function quantizationConfig({ weights, format, group }: Scheme, ignore: readonly string[]) {
  return {
    quant_method: 'compressed-tensors',
    format,
    quantization_status: 'compressed',
    config_groups: {
      group_0: {
        targets: ['Linear'],
        weights: {
          num_bits: weights === 'int4' ? 4 : 8,
          type: weights === 'fp8' ? 'float' : 'int',
          symmetric: true,
          strategy: group === 'channel' ? 'channel' : 'group',
          group_size: group === 'channel' ? null : group,
          actorder: null,
          dynamic: false,
        },
        input_activations: null,
        output_activations: null,
      },
    },
    ignore,
    kv_cache_scheme: null,
  };
}
