// Random weights in every format, with the shapes that kernels get wrong: short blocks, odd groups, rows cut from a larger tensor.

import type { DType, FloatType } from '../../offload/port/dtype.js';
import { type Format, type FormatName, formatOf, type PartName } from '../../offload/port/formats.js';
import type { Tensor, Weight } from '../../offload/port/ops.js';
import { roundTo } from './reference-weights.js';
import { fromE4M3 } from './short-floats.js';
import type { Workbench } from './workbench.js';

/** One way in which a format is used. */
export interface WeightKind {
  /** Says what is odd about it. */
  readonly label: string;
  readonly name: FormatName;
  /** Rows and inputs that share a scale; absent: all of them. */
  readonly rowGroup?: number;
  readonly inputGroup?: number;
  readonly scales?: DType;
  readonly product?: FloatType;
  readonly bits?: number;
  readonly hasZeros?: boolean;
  /** Inputs of a group do not follow each other. */
  readonly isScattered?: boolean;
  readonly isNested?: boolean;
  readonly hasGlobal?: boolean;
  readonly globalDivides?: boolean;
  readonly zeroPlusOne?: boolean;
  readonly factor?: number;
  /** What the format's N and K are multiples of. */
  readonly multiples?: readonly [number, number];
}

const fp4 = { name: 'fp4', product: 'f32' } as const;
const gptq = { name: 'gptq', scales: 'f16', product: 'f16', hasZeros: true } as const;

export const WEIGHT_KINDS: readonly WeightKind[] = [
  {
    label: 'e4m3, blocks of 128 × 128',
    name: 'e4m3',
    rowGroup: 128,
    inputGroup: 128,
    scales: 'f32',
    product: 'f32',
  },
  {
    label: 'e4m3, small blocks',
    name: 'e4m3',
    rowGroup: 16,
    inputGroup: 32,
    scales: 'bf16',
    product: 'bf16',
  },
  { label: 'e4m3, a scale per row', name: 'e4m3', rowGroup: 1, scales: 'bf16', product: 'bf16' },
  { label: 'e4m3, one scale', name: 'e4m3', scales: 'f32', product: 'f32' },
  { label: 'e4m3, e8m0 scales', name: 'e4m3', rowGroup: 1, inputGroup: 32, scales: 'e8m0', product: 'f32' },
  { label: 'e4m3, f16 scales per row', name: 'e4m3', rowGroup: 1, scales: 'f16', product: 'f16' },
  { label: 'int8, a scale per row', name: 'int8', rowGroup: 1, scales: 'bf16', product: 'bf16' },
  { label: 'int8, zeros', name: 'int8', rowGroup: 1, scales: 'f32', product: 'f32', hasZeros: true },
  {
    label: 'int8, groups and zeros',
    name: 'int8',
    rowGroup: 1,
    inputGroup: 24,
    scales: 'f16',
    product: 'f16',
    hasZeros: true,
  },
  { label: 'int8, one scale', name: 'int8', scales: 'f32', product: 'f32' },
  {
    label: 'int8 of bitsandbytes',
    name: 'int8',
    rowGroup: 1,
    scales: 'f32',
    product: 'f32',
    factor: Math.fround(1 / 127),
  },
  {
    label: 'packed8, groups of 32',
    name: 'packed8',
    rowGroup: 1,
    inputGroup: 32,
    scales: 'bf16',
    product: 'bf16',
  },
  {
    label: 'packed8, a scale per row and zeros',
    name: 'packed8',
    rowGroup: 1,
    scales: 'f32',
    product: 'f32',
    hasZeros: true,
  },
  {
    label: 'packed4, groups of 64',
    name: 'packed4',
    rowGroup: 1,
    inputGroup: 64,
    scales: 'bf16',
    product: 'bf16',
  },
  {
    label: 'packed4, groups of 64 and zeros',
    name: 'packed4',
    rowGroup: 1,
    inputGroup: 64,
    scales: 'bf16',
    product: 'bf16',
    hasZeros: true,
  },
  {
    label: 'packed4, groups of 32',
    name: 'packed4',
    rowGroup: 1,
    inputGroup: 32,
    scales: 'f16',
    product: 'f16',
  },
  { label: 'packed4, a scale per row', name: 'packed4', rowGroup: 1, scales: 'f32', product: 'f32' },
  {
    label: 'packed4, zeros',
    name: 'packed4',
    rowGroup: 1,
    inputGroup: 40,
    scales: 'bf16',
    product: 'bf16',
    hasZeros: true,
  },
  {
    label: 'packed4, zeros and scattered groups',
    name: 'packed4',
    rowGroup: 1,
    inputGroup: 32,
    scales: 'f16',
    product: 'f16',
    hasZeros: true,
    isScattered: true,
  },
  { ...fp4, label: 'fp4, e8m0 scales', inputGroup: 32, scales: 'e8m0', multiples: [1, 32] },
  { ...fp4, label: 'fp4, times global', inputGroup: 16, scales: 'e4m3', hasGlobal: true, multiples: [1, 16] },
  {
    ...fp4,
    label: 'fp4, over global',
    inputGroup: 16,
    scales: 'e4m3',
    hasGlobal: true,
    globalDivides: true,
    multiples: [1, 16],
  },
  { label: 'table4', name: 'table4', inputGroup: 64, scales: 'f32', product: 'f32', multiples: [1, 2] },
  {
    label: 'table4, through bf16',
    name: 'table4',
    inputGroup: 64,
    scales: 'f32',
    product: 'bf16',
    multiples: [2, 1],
  },
  {
    label: 'table4, nested',
    name: 'table4',
    inputGroup: 64,
    product: 'f16',
    isNested: true,
    multiples: [1, 2],
  },
  {
    label: 'awq',
    name: 'awq',
    inputGroup: 64,
    scales: 'f16',
    product: 'f16',
    hasZeros: true,
    bits: 4,
    multiples: [8, 1],
  },
  { ...gptq, label: 'gptq of 4 bits', bits: 4, inputGroup: 64, zeroPlusOne: true },
  { ...gptq, label: 'gptq of 4 bits, second version', bits: 4, inputGroup: 32 },
  {
    ...gptq,
    label: 'gptq of 4 bits, scattered groups',
    bits: 4,
    inputGroup: 32,
    zeroPlusOne: true,
    isScattered: true,
  },
  { ...gptq, label: 'gptq of 8 bits', bits: 8, inputGroup: 128, zeroPlusOne: true },
  { ...gptq, label: 'gptq of 3 bits', bits: 3, inputGroup: 32, zeroPlusOne: true },
  {
    ...gptq,
    label: 'gptq of 3 bits, second version, scattered groups',
    bits: 3,
    isScattered: true,
    inputGroup: 48,
  },
  { ...gptq, label: 'gptq of 2 bits', bits: 2, inputGroup: 64, zeroPlusOne: true },
  { label: 'e4m3 by inputs', name: 'e4m3_in', rowGroup: 1, scales: 'f32', product: 'f32' },
  {
    label: 'e4m3 by inputs, in groups',
    name: 'e4m3_in',
    rowGroup: 1,
    inputGroup: 40,
    scales: 'bf16',
    product: 'bf16',
  },
];

export interface WeightOptions {
  /** The expanded weight's. */
  readonly type?: FloatType;
  /** The weight begins so many rows into its scales, as rows cut from a larger tensor do; where its format can. */
  readonly firstRow?: number;
}

/** [N, K] rounded up to what the kind's format can hold. */
export function fitted(
  { multiples = [1, 1] }: WeightKind,
  [N, K]: readonly [number, number],
): [number, number] {
  return [Math.ceil(N / multiples[0]) * multiples[0], Math.ceil(K / multiples[1]) * multiples[1]];
}

/** Formats whose rows lie side by side are never cut by rows. */
export function canBeCut({ name }: WeightKind): boolean {
  return name !== 'awq' && name !== 'gptq' && name !== 'e4m3_in';
}

/** A weight of values up to a few units, its parts at places of the bench's choice. The shape must fit the kind. */
export function buildWeight(
  bench: Workbench,
  kind: WeightKind,
  shape: readonly [number, number],
  { type = 'bf16', firstRow = 0 }: WeightOptions = {},
): Weight {
  const [N, K] = shape;
  const rowGroup = kind.rowGroup ?? (kind.name === 'e4m3' || kind.name === 'int8' ? N + firstRow : 1);
  const format: Format = formatOf(kind.name, type, {
    rowGroup,
    inputGroup: kind.inputGroup ?? Math.max(1, K),
    product: kind.product ?? type,
    bits: kind.bits ?? 0,
    zeroPlusOne: kind.zeroPlusOne ?? false,
    globalDivides: kind.globalDivides ?? false,
    factor: kind.factor ?? 1,
    nestedOffset: kind.isNested ? Math.fround(0.0625) : 0,
  });
  const build = new Builder(bench, kind, format, shape);
  const parts: Partial<Record<PartName, Tensor>> = BUILD[kind.name](build, firstRow);
  return { format, shape: [N, K], firstRow, parts };
}

type Parts = Partial<Record<PartName, Tensor>>;

const BUILD: Readonly<Record<FormatName, (build: Builder, firstRow: number) => Parts>> = {
  dense: ({ bench, format, N, K }) => ({ codes: bench.weight(format.type, [N, K]) }),
  dense_in: ({ bench, format, N, K }) => ({ codes: bench.weight(format.type, [K, N]) }),
  e4m3: (build, firstRow) => ({
    codes: build.random('e4m3', [build.N, build.K], (i) => fromE4M3(build.e4m3Code(i))),
    scales: build.scales(build.blocks(firstRow), 1 / 128),
  }),
  int8: (build, firstRow) => ({
    codes: build.random('i8', [build.N, build.K], () => build.bench.int(256) - 128),
    scales: build.scales(build.blocks(firstRow), build.format.factor === 1 ? 1 / 64 : 2),
    ...(build.kind.hasZeros
      ? { zeros: build.random('i8', build.blocks(firstRow), () => build.bench.int(41) - 20) }
      : {}),
  }),
  packed8: (build, firstRow) => build.packed(8, firstRow),
  packed4: (build, firstRow) => build.packed(4, firstRow),
  fp4: (build, firstRow) => {
    const { bench, kind, N, K } = build;
    const global = () => Math.fround(kind.globalDivides ? 37.3 : 1 / 41.7);
    return {
      codes: build.random('u8', [N, K / 2], () => bench.int(256)),
      scales: build.scales([N + firstRow, build.groupCount], kind.hasGlobal ? 16 : 1 / 2),
      ...(kind.hasGlobal ? { global: build.random('f32', [1], global) } : {}),
    };
  },
  table4: (build, firstRow) => {
    const { bench, N, K, format } = build;
    const count = Math.ceil(((N + firstRow) * K) / format.inputGroup);
    const isNested = build.kind.isNested ?? false;
    return {
      codes: build.random('u8', [(N * K) / 2], () => bench.int(256)),
      scales: isNested ? build.random('u8', [count], () => bench.int(256)) : build.scales([count], 2),
      table: build.random('f32', [16], (i) => Math.fround((i / 7.5 - 1) ** 3 + 0.01)),
      ...(isNested
        ? {
            nestedScales: build.scales([Math.ceil(count / 256)], 1),
            nestedTable: build.random('f32', [256], (i) => Math.fround((i - 127.3) / 127)),
          }
        : {}),
    };
  },
  awq: (build) => {
    const { N, K, groupCount } = build;
    return {
      codes: build.words([K, N / 8]),
      scales: build.scales([groupCount, N], 1 / 8),
      zeros: build.words([groupCount, N / 8]),
    };
  },
  gptq: (build) => {
    const { N, K, groupCount } = build;
    const { bits } = build.format;
    return {
      codes: build.words([Math.ceil((K * bits) / 32), N]),
      scales: build.scales([groupCount, N], 2 / 2 ** bits),
      zeros: build.words([groupCount, Math.ceil((N * bits) / 32)]),
      ...build.groups(),
    };
  },
  e4m3_in: (build) => ({
    codes: build.random('e4m3', [build.K, build.N], (i) => fromE4M3(build.e4m3Code(i))),
    scales: build.scales([build.groupCount, build.N], 1 / 128),
  }),
};

class Builder {
  readonly N: number;
  readonly K: number;
  readonly bench: Workbench;
  readonly kind: WeightKind;
  readonly format: Format;

  constructor(bench: Workbench, kind: WeightKind, format: Format, [N, K]: readonly [number, number]) {
    this.bench = bench;
    this.kind = kind;
    this.format = format;
    this.N = N;
    this.K = K;
  }

  get groupCount(): number {
    return Math.ceil(this.K / this.format.inputGroup);
  }

  /** Shape of scales that each belong to a block. */
  blocks(firstRow: number): [number, number] {
    return [Math.ceil((this.N + firstRow) / this.format.rowGroup), this.groupCount];
  }

  random(dtype: DType, shape: readonly number[], value: (index: number) => number): Tensor {
    return this.bench.memory.fill(this.bench.stored(dtype, shape), value);
  }

  /** Every field of every word takes every value. */
  words(shape: readonly number[]): Tensor {
    return this.random('i32', shape, () => (this.bench.int(65536) << 16) | this.bench.int(65536));
  }

  /** Around `size`, of all signs that the type has, with all bits of its fraction in use. */
  scales(shape: readonly number[], size: number): Tensor {
    const { bench, kind } = this;
    const dtype = kind.scales ?? 'f32';
    const magnitude = () => size * (0.5 + bench.random());
    switch (dtype) {
      case 'e8m0':
        return this.random(dtype, shape, () => 2 ** (Math.round(Math.log2(size)) + bench.int(4) - 2));
      case 'e4m3':
        return this.random(dtype, shape, magnitude);
      case 'f32':
      case 'f16':
      case 'bf16':
        return this.random(dtype, shape, () => roundTo(dtype, (bench.int(8) === 0 ? -1 : 1) * magnitude()));
      default:
        throw new Error(`no scales are of ${dtype}`);
    }
  }

  packed(bits: number, firstRow: number): Parts {
    const perWord = 32 / bits;
    const rows = this.N + firstRow;
    return {
      codes: this.words([this.N, Math.ceil(this.K / perWord)]),
      scales: this.scales([rows, this.groupCount], 2 / 2 ** (bits - 1)),
      ...(this.kind.hasZeros ? { zeros: this.words([Math.ceil(rows / perWord), this.groupCount]) } : {}),
      ...this.groups(),
    };
  }

  groups(): Parts {
    if (!this.kind.isScattered) return {};
    const { bench, groupCount } = this;
    return { groups: this.random('i32', [this.K], () => bench.int(groupCount)) };
  }

  /** NaN has no value that kernels could agree on. Every second 128 have no number below 2^-6, as trained weights have few. */
  e4m3Code(index: number): number {
    const code = this.bench.int(256);
    if ((code & 0x7f) === 0x7f) return code - 1;
    return (code & 0x78) === 0 && (index >> 7) % 2 === 0 ? code | 8 : code;
  }
}
