// What makers' tools make of a matrix: values in, the tensors of a file out.

import type { TestTensor } from '../helpers/safetensors.js';
import { roundTo } from '../native/reference-weights.js';
import { e4m3, integers, type Matrix, places, powerOfTwo } from './quantise.js';
import { packedRows, tensorOf, transposed } from './stored-tensor.js';

export interface NamedMatrix extends Matrix {
  /** `X.weight`, or the name of fused experts. */
  readonly name: string;
}

export type Encode = (matrix: NamedMatrix) => readonly TestTensor[];

const half = (value: number) => roundTo('f16', value);
const brief = (value: number) => roundTo('bf16', value);
const single = Math.fround;
const moduleOf = ({ name }: NamedMatrix) => name.replace(/\.weight$/, '');
const rowsOf = (values: readonly number[], columns: number) =>
  Array.from({ length: values.length / columns }, (_, r) => values.slice(r * columns, (r + 1) * columns));
const up = (count: number, step: number) => Math.ceil(count / step);

/** Inputs of all groups mixed, each group as large as the others. */
function scattered(K: number, size: number): number[] {
  const groups = up(K, size);
  return Array.from({ length: K }, (_, k) => (k * 7 + Math.floor(k / 5)) % groups);
}

const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6];
const NF4 = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
  -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
  0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
];
const FP4 = [0, 0.0625, 8, 12, 4, 6, 2, 3].map((value) => value / 12).flatMap((value) => [value]);
const FP4_TABLE = [...FP4, ...FP4.map((value) => -value)];

export function fp8(options: {
  readonly rowGroup: (N: number) => number;
  readonly inputGroup: (K: number) => number;
  readonly type: string;
  readonly suffix: string;
  readonly shape?: (rows: number, G: number) => readonly number[];
}): Encode {
  const round = { F32: single, BF16: brief, F8_E8M0: powerOfTwo, U8: powerOfTwo }[options.type] ?? single;
  return (matrix) => {
    const { name, N, K } = matrix;
    const sharing = { rowGroup: options.rowGroup(N), inputGroup: options.inputGroup(K) };
    const { codes, scales, G } = e4m3(matrix, sharing, round);
    const rows = up(N, sharing.rowGroup);
    const stored = options.type === 'U8' ? scales.map((scale) => Math.log2(scale) + 127) : scales;
    const scaleName = options.suffix.startsWith('.')
      ? moduleOf(matrix) + options.suffix
      : name + options.suffix;
    return [
      tensorOf(name, 'F8_E4M3', [N, K], codes),
      tensorOf(scaleName, options.type, options.shape?.(rows, G) ?? [rows, G], stored),
      tensorOf(`${moduleOf(matrix)}.input_scale`, 'F32', [], [0.5]),
    ];
  };
}
export const everything = (size: number) => size;
export const one = () => 1;
export const by = (size: number) => () => size;

export function packed(options: {
  readonly bits: number;
  readonly group?: number;
  readonly symmetric: boolean;
  readonly type: string;
  readonly isScattered?: boolean;
}): Encode {
  const { bits, symmetric, type } = options;
  const round = { F32: single, BF16: brief, F16: half }[type] ?? single;
  return (matrix) => {
    const { name, N, K } = matrix;
    const inputGroup = options.group ?? K;
    const groups = options.isScattered ? scattered(K, inputGroup) : undefined;
    const sharing = { rowGroup: 1, inputGroup, ...(groups ? { groups } : {}) };
    const { codes, scales, zeros, G } = integers(matrix, sharing, { bits, symmetric, round });
    const perWord = 32 / bits;
    const zeroColumns = rowsOf(transposed(zeros, N, G), N);
    const zeroWords = packedRows(zeroColumns, bits); // [G, words]
    return [
      tensorOf(`${name}_packed`, 'I32', [N, up(K, perWord)], packedRows(rowsOf(codes, K), bits)),
      tensorOf(`${name}_scale`, type, [N, G], scales),
      tensorOf(`${name}_shape`, 'I64', [2], [N, K]),
      ...(symmetric
        ? []
        : [
            tensorOf(
              `${name}_zero_point`,
              'I32',
              [up(N, perWord), G],
              transposed(zeroWords, G, up(N, perWord)),
            ),
          ]),
      ...(groups ? [tensorOf(`${name}_g_idx`, 'I32', [K], groups)] : []),
    ];
  };
}

export function bytes(options: { readonly symmetric: boolean; readonly group?: number }): Encode {
  return (matrix) => {
    const { name, N, K } = matrix;
    const sharing = { rowGroup: 1, inputGroup: options.group ?? K };
    const { symmetric } = options;
    const { codes, scales, zeros, G } = integers(matrix, sharing, { bits: 8, symmetric, round: brief });
    return [
      tensorOf(
        name,
        'I8',
        [N, K],
        codes.map((code) => code - 128),
      ),
      tensorOf(`${name}_scale`, 'BF16', [N, G], scales),
      ...(symmetric
        ? []
        : [
            tensorOf(
              `${name}_zero_point`,
              'I8',
              [N, G],
              zeros.map((zero) => zero - 128),
            ),
          ]),
    ];
  };
}

const nibbles = (codes: readonly number[]) =>
  Array.from({ length: codes.length / 2 }, (_, i) => (codes[2 * i] ?? 0) | ((codes[2 * i + 1] ?? 0) << 4));

export function mxfp4(names: {
  readonly codes: readonly [suffix: string, type: string];
  readonly scales: readonly [suffix: string, type: string];
  readonly blocks?: boolean;
}): Encode {
  return (matrix) => {
    const { name, N, K } = matrix;
    const { codes, scales, G } = places(
      matrix,
      { rowGroup: 1, inputGroup: 32 },
      { table: E2M1, round: powerOfTwo },
    );
    const [[codeSuffix, codeType], [scaleSuffix, scaleType]] = [names.codes, names.scales];
    const pairs = nibbles(codes);
    const signed = codeType === 'I8' ? pairs.map((byte) => (byte << 24) >> 24) : pairs;
    const base = scaleSuffix.startsWith('.') ? moduleOf(matrix) : name;
    const exponents = scaleType === 'U8' ? scales.map((scale) => Math.log2(scale) + 127) : scales;
    return [
      tensorOf(name + codeSuffix, codeType, names.blocks ? [N, G, 16] : [N, K / 2], signed),
      tensorOf(base + scaleSuffix, scaleType, [N, G], exponents),
    ];
  };
}

export function nvfp4(spelling: 'compressed-tensors' | 'modelopt'): Encode {
  return (matrix) => {
    const { name, N, K, values } = matrix;
    const most = Math.max(...Array.from(values, Math.abs));
    const global = single(most / 6 / 400);
    const round = (scale: number) => Math.max(2 ** -6, Math.min(448, eighths(scale / global))) * global;
    const { codes, scales, G } = places(matrix, { rowGroup: 1, inputGroup: 16 }, { table: E2M1, round });
    const inner = scales.map((scale) => scale / global);
    const isDivided = spelling === 'compressed-tensors';
    return [
      tensorOf(isDivided ? `${name}_packed` : name, 'U8', [N, K / 2], nibbles(codes)),
      tensorOf(`${name}_scale`, 'F8_E4M3', [N, G], inner),
      isDivided
        ? tensorOf(`${name}_global_scale`, 'F32', [1], [1 / global])
        : tensorOf(`${name}_scale_2`, 'F32', [], [global]),
      tensorOf(
        isDivided ? `${moduleOf(matrix)}.input_global_scale` : `${moduleOf(matrix)}.input_scale`,
        'F32',
        [1],
        [3],
      ),
    ];
  };
}

/** Three bits of fraction. */
function eighths(value: number): number {
  const step = 2 ** (Math.floor(Math.log2(value)) - 3);
  return Math.round(value / step) * step;
}

export function gptq(options: {
  readonly bits: number;
  readonly group: number;
  readonly version: 1 | 2;
  readonly index: 'none' | 'plain' | 'scattered';
  readonly symmetric?: boolean;
}): Encode {
  const { bits, group, version, index, symmetric = true } = options;
  return (matrix) => {
    const { N, K } = matrix;
    const module = moduleOf(matrix);
    const inputGroup = group === -1 ? K : group;
    const groups = index === 'scattered' ? scattered(K, inputGroup) : undefined;
    const sharing = { rowGroup: 1, inputGroup, ...(groups ? { groups } : {}) };
    const { codes, scales, zeros, G } = integers(matrix, sharing, { bits, symmetric, round: half });
    const codeWords = packedRows(rowsOf(codes, K), bits); // [N, words]
    const words = up(K * bits, 32);
    // The first version takes one from each field of a word, or from the word as a whole, which is the same here.
    const stored = zeros.map((zero) => (zero - (version === 1 ? 1 : 0) + 2 ** bits) % 2 ** bits);
    const plain = Array.from({ length: K }, (_, k) => Math.floor(k / inputGroup));
    return [
      tensorOf(`${module}.qweight`, 'I32', [words, N], transposed(codeWords, N, words)),
      tensorOf(
        `${module}.qzeros`,
        'I32',
        [G, up(N * bits, 32)],
        packedRows(rowsOf(transposed(stored, N, G), N), bits),
      ),
      tensorOf(`${module}.scales`, 'F16', [G, N], transposed(scales, N, G)),
      ...(index === 'none' ? [] : [tensorOf(`${module}.g_idx`, 'I32', [K], groups ?? plain)]),
    ];
  };
}

const AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7];

export const awq: Encode = (matrix) => {
  const { N, K } = matrix;
  const module = moduleOf(matrix);
  const sharing = { rowGroup: 1, inputGroup: 32 };
  const { codes, scales, zeros, G } = integers(matrix, sharing, { bits: 4, symmetric: false, round: half });
  const words = (values: readonly number[], rows: number) =>
    packedRows(
      rowsOf(transposed(values, N, rows), N).map((row) => {
        const ordered = new Array<number>(N).fill(0);
        row.forEach((code, n) => {
          ordered[n - (n % 8) + (AWQ_PLACES[n % 8] ?? 0)] = code;
        });
        return ordered;
      }),
      4,
    );
  return [
    tensorOf(`${module}.qweight`, 'I32', [K, N / 8], words(codes, K)),
    tensorOf(`${module}.qzeros`, 'I32', [G, N / 8], words(zeros, G)),
    tensorOf(`${module}.scales`, 'F16', [G, N], transposed(scales, N, G)),
  ];
};

export function bitsandbytes(options: {
  readonly type: 'nf4' | 'fp4';
  readonly isNested?: boolean;
  readonly storage?: string;
}): Encode {
  const table = options.type === 'nf4' ? NF4 : FP4_TABLE;
  return (matrix) => {
    const { name, N, K, values } = matrix;
    const flat = { N: 1, K: N * K, values };
    const { codes, scales } = places(flat, { rowGroup: 1, inputGroup: 64 }, { table, round: single });
    const pairs = Array.from(
      { length: (N * K) / 2 },
      (_, i) => ((codes[2 * i] ?? 0) << 4) | (codes[2 * i + 1] ?? 0),
    );
    const offset = scales.reduce((sum, scale) => sum + scale, 0) / scales.length;
    const nestedTable = Array.from({ length: 256 }, (_, i) => (i - 127) / 128);
    const spreads = Array.from({ length: up(scales.length, 256) }, (_, b) =>
      Math.max(1e-6, ...scales.slice(b * 256, (b + 1) * 256).map((scale) => Math.abs(scale - offset))),
    );
    const nestedCodes = scales.map((scale, i) =>
      Math.min(255, Math.max(0, Math.round(((scale - offset) / (spreads[i >> 8] ?? 1)) * 128) + 127)),
    );
    const state = {
      quant_type: options.type,
      blocksize: 64,
      dtype: 'bfloat16',
      shape: [N, K],
      ...(options.isNested ? { nested_blocksize: 256, nested_dtype: 'float32', nested_offset: offset } : {}),
    };
    const json = [...Buffer.from(JSON.stringify(state))];
    const bytesOfCodes = tensorOf(name, 'U8', [(N * K) / 2, 1], pairs);
    return [
      options.storage ? { ...bytesOfCodes, dtype: options.storage, shape: [(N * K) / 4, 1] } : bytesOfCodes,
      tensorOf(
        `${name}.absmax`,
        options.isNested ? 'U8' : 'F32',
        [scales.length],
        options.isNested ? nestedCodes : scales,
      ),
      tensorOf(`${name}.quant_map`, 'F32', [16], table),
      tensorOf(`${name}.quant_state.bitsandbytes__${options.type}`, 'U8', [json.length], json),
      ...(options.isNested
        ? [
            tensorOf(`${name}.nested_absmax`, 'F32', [spreads.length], spreads),
            tensorOf(`${name}.nested_quant_map`, 'F32', [256], nestedTable),
          ]
        : []),
    ];
  };
}

export const int8Rows: Encode = (matrix) => {
  const { name, N, K } = matrix;
  const sharing = { rowGroup: 1, inputGroup: K };
  const { codes, scales } = integers(matrix, sharing, {
    bits: 8,
    symmetric: true,
    round: (scale) => single(scale),
  });
  return [
    tensorOf(
      name,
      'I8',
      [N, K],
      codes.map((code) => code - 128),
    ),
    tensorOf(
      `${moduleOf(matrix)}.SCB`,
      'F32',
      [N],
      scales.map((scale) => scale * 127),
    ),
    tensorOf(`${moduleOf(matrix)}.weight_format`, 'U8', [], [0]),
  ];
};
