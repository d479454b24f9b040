// Plain quantisers for tests: scales from the largest magnitude, codes to the nearest.

import { fromE4M3, toE4M3 } from '../native/short-floats.js';

export interface Matrix {
  readonly N: number;
  readonly K: number;
  /** [N, K] */
  readonly values: ArrayLike<number>;
}

export interface Quantised {
  /** [N, K]; unsigned for integers, places in a table otherwise. */
  readonly codes: number[];
  /** [rows of scales, G] */
  readonly scales: number[];
  readonly zeros: number[];
  readonly G: number;
}

/** Which values share a scale. */
export interface Sharing {
  readonly rowGroup: number;
  readonly inputGroup: number;
  /** Group of each input, where they do not follow each other. */
  readonly groups?: readonly number[];
}

/** The values of each scale's block, in the order of the scales. */
export function blocksOf({ N, K, values }: Matrix, { rowGroup, inputGroup, groups }: Sharing) {
  const G = groups ? Math.max(...groups) + 1 : Math.ceil(K / inputGroup);
  const scaleOf = (n: number, k: number) =>
    Math.floor(n / rowGroup) * G + (groups?.[k] ?? Math.floor(k / inputGroup));
  const blocks: number[][] = Array.from({ length: Math.ceil(N / rowGroup) * G }, () => []);
  for (let n = 0; n < N; n++) {
    for (let k = 0; k < K; k++) blocks[scaleOf(n, k)]?.push(values[n * K + k] ?? 0);
  }
  return { G, scaleOf, blocks };
}

const largest = (values: readonly number[]) =>
  values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

function encoded(
  matrix: Matrix,
  sharing: Sharing,
  scale: (block: readonly number[]) => { readonly scale: number; readonly zero: number },
  code: (value: number, scale: number, zero: number) => number,
): Quantised {
  const { N, K, values } = matrix;
  const { G, scaleOf, blocks } = blocksOf(matrix, sharing);
  const found = blocks.map(scale);
  const codes = Array.from({ length: N * K }, (_, i) => {
    const { scale: own = 1, zero = 0 } = found[scaleOf(Math.floor(i / K), i % K)] ?? {};
    return code(values[i] ?? 0, own, zero);
  });
  return { codes, G, scales: found.map(({ scale: own }) => own), zeros: found.map(({ zero }) => zero) };
}

/** Unsigned codes; of symmetric ones the zero is the middle. @param round to the type that scales are stored in */
export function integers(
  matrix: Matrix,
  sharing: Sharing,
  { bits, symmetric, round }: { bits: number; symmetric: boolean; round: (scale: number) => number },
): Quantised {
  const [most, middle] = [2 ** bits - 1, 2 ** (bits - 1)];
  return encoded(
    matrix,
    sharing,
    (block) => {
      if (symmetric) return { scale: round(Math.max(1e-6, largest(block)) / (middle - 0.5)), zero: middle };
      const [low, high] = [Math.min(0, ...block), Math.max(0, ...block)];
      const scale = round(Math.max(1e-6, high - low) / most);
      return { scale, zero: Math.min(most, Math.round(-low / scale)) };
    },
    (value, scale, zero) => Math.min(most, Math.max(0, Math.round(value / scale) + zero)),
  );
}

/** Codes as values of e4m3. */
export function e4m3(matrix: Matrix, sharing: Sharing, round: (scale: number) => number): Quantised {
  return encoded(
    matrix,
    sharing,
    (block) => ({ scale: round(Math.max(1e-6, largest(block)) / 400), zero: 0 }),
    (value, scale) => fromE4M3(toE4M3(value / scale)),
  );
}

/** The power of two from which on nothing exceeds `most`. */
export function powerOfTwo(scale: number): number {
  return 2 ** Math.ceil(Math.log2(scale));
}

/** Places in a table of values. */
export function places(
  matrix: Matrix,
  sharing: Sharing,
  { table, round }: { table: readonly number[]; round: (scale: number) => number },
): Quantised {
  const most = largest(table);
  return encoded(
    matrix,
    sharing,
    (block) => ({ scale: round(Math.max(1e-6, largest(block)) / most), zero: 0 }),
    (value, scale) => nearest(table, value / scale),
  );
}

function nearest(table: readonly number[], value: number): number {
  let best = 0;
  for (const [index, entry] of table.entries()) {
    if (Math.abs(entry - value) < Math.abs((table[best] ?? 0) - value)) best = index;
  }
  return best;
}
