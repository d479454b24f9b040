// Matrices in random formats, each part of which lies anywhere in a few files.

import { present } from '../../offload/errors.js';
import type { MatrixSpec, TensorSpec } from '../../offload/model/layout.js';
import type { DType } from '../../offload/port/dtype.js';
import { type Format, type FormatName, formatOf, type PartName } from '../../offload/port/formats.js';
import type { Random } from '../simulator/random.js';

/** Gives a tensor its place. */
export type Take = (key: string, dtype: DType, shape: readonly number[]) => TensorSpec;

type PartShapes = { readonly [Name in PartName]?: readonly [DType, readonly number[]] };

interface Drawn {
  readonly groups?: Partial<Format>;
  readonly firstRow?: number;
  readonly parts: PartShapes;
}

interface Size {
  readonly N: number;
  readonly K: number;
}

/** Not cut in the simulator, whose outputs depend on whole rows: blocks of it are of the flat matrix. */
const FLAT: FormatName = 'table4';

/** Undefined where a format does not have matrices of that size. */
type Draw = (random: Random, size: Size) => Drawn | undefined;

const FORMATS: readonly (readonly [FormatName, Draw])[] = [
  ['e4m3', (random, size) => bytes(random, size, 'e4m3')],
  ['int8', (random, size) => bytes(random, size, 'i8')],
  ['packed8', (random, size) => words(random, size, 4)],
  ['packed4', (random, size) => words(random, size, 8)],
  ['fp4', drawFp4],
  ['table4', drawTable],
  ['awq', drawAwq],
  ['gptq', drawGptq],
];

/** A matrix [N, K], which may be cut into pieces if `isCut`. */
export function drawMatrix(
  random: Random,
  { key, N, K, isCut }: Size & { readonly key: string; readonly isCut: boolean },
  take: Take,
): MatrixSpec {
  const shape = [N, K] as const;
  const [name, draw] = random.pick(FORMATS);
  const drawn = random.chance(0.4) && !(isCut && name === FLAT) ? draw(random, { N, K }) : undefined;
  if (!drawn) {
    const [type, isTurned] = [random.pick(['f32', 'f16', 'bf16'] as const), random.chance(0.2)];
    const codes = take(key, type, isTurned ? [K, N] : shape);
    const format = formatOf(isTurned ? 'dense_in' : 'dense', type);
    return { key, format, shape, firstRow: 0, parts: { codes } };
  }
  const parts: { -readonly [Name in PartName]?: TensorSpec } = {};
  for (const part of random.shuffled(Object.keys(drawn.parts) as PartName[])) {
    const [dtype, dims] = present(drawn.parts[part], part);
    parts[part] = take(part === 'codes' ? key : `${key} ${part}`, dtype, dims);
  }
  const format = formatOf(name, 'bf16', drawn.groups);
  return { key, format, shape, firstRow: drawn.firstRow ?? 0, parts };
}

/** A byte a code, in blocks that need not divide the matrix, which may begin in the middle of one. */
function bytes(random: Random, { N, K }: Size, dtype: 'e4m3' | 'i8'): Drawn {
  const [rowGroup, inputGroup] = [random.pick([1, 3, N]), random.pick([K, 5, 8])];
  const firstRow = random.chance(0.3) ? random.between(1, 4) : 0;
  const scaleShape = [Math.ceil((N + firstRow) / rowGroup), Math.ceil(K / inputGroup)];
  return {
    groups: { rowGroup, inputGroup },
    firstRow,
    parts: {
      codes: [dtype, [N, K]],
      scales: [random.pick(['f32', 'bf16', 'e8m0'] as const), scaleShape],
      ...(dtype === 'i8' && random.chance(0.5) ? { zeros: ['i8', scaleShape] } : {}),
    },
  };
}

function words(random: Random, { N, K }: Size, each: number): Drawn {
  const inputGroup = random.pick([K, 4, 8]);
  const [hasZeros, isScattered] = [random.chance(0.5), random.chance(0.3)];
  const firstRow = hasZeros && random.chance(0.5) ? random.between(1, each - 1) : 0;
  const G = Math.ceil(K / inputGroup);
  return {
    groups: { inputGroup },
    firstRow,
    parts: {
      codes: ['i32', [N, Math.ceil(K / each)]],
      scales: [random.pick(['f32', 'bf16', 'f16'] as const), [N + firstRow, G]],
      ...(hasZeros ? { zeros: ['i32', [Math.ceil((N + firstRow) / each), G]] } : {}),
      ...(isScattered ? { groups: ['i32', [K]] } : {}),
    },
  };
}

function drawFp4(_random: Random, { N, K }: Size): Drawn | undefined {
  if (K % 16 !== 0) return undefined;
  return {
    groups: { inputGroup: 16 },
    parts: { codes: ['u8', [N, K / 2]], scales: ['e4m3', [N, K / 16]], global: ['f32', [1]] },
  };
}

function drawTable(random: Random, { N, K }: Size): Drawn | undefined {
  if (K % 2 !== 0) return undefined;
  const inputGroup = 64;
  const count = Math.ceil((N * K) / inputGroup);
  const nested: PartShapes = {
    scales: ['u8', [count]],
    nestedTable: ['f32', [256]],
    nestedScales: ['f32', [Math.ceil(count / 256)]],
  };
  const scales: PartShapes = random.chance(0.3) ? nested : { scales: ['f32', [count]] };
  return {
    groups: { inputGroup },
    parts: { codes: ['u8', [(N * K) / 2]], table: ['f32', [16]], ...scales },
  };
}

function drawAwq(_random: Random, { N, K }: Size): Drawn | undefined {
  if (N % 8 !== 0) return undefined;
  const G = Math.ceil(K / 8);
  return {
    groups: { inputGroup: 8, bits: 4 },
    parts: { codes: ['i32', [K, N / 8]], scales: ['f16', [G, N]], zeros: ['i32', [G, N / 8]] },
  };
}

function drawGptq(random: Random, { N, K }: Size): Drawn {
  const bits = random.pick([2, 3, 4, 8]);
  const G = Math.ceil(K / 8);
  const packed = (count: number) => Math.ceil((count * bits) / 32);
  return {
    groups: { inputGroup: 8, bits },
    parts: {
      codes: ['i32', [packed(K), N]],
      scales: ['f16', [G, N]],
      zeros: ['i32', [G, packed(N)]],
      ...(random.chance(0.5) ? { groups: ['i32', [K]] } : {}),
    },
  };
}
