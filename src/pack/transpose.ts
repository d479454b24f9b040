// Values that are stored [inputs, rows] as [rows, inputs], in squares that stay in the cache.

const SIDE = 32;

type Elements = Uint16Array | Uint32Array;

export function transpose(from: Elements, to: Elements, rows: number): void {
  const inputs = from.length / rows;
  for (let k0 = 0; k0 < inputs; k0 += SIDE) {
    const kEnd = Math.min(inputs, k0 + SIDE);
    for (let n0 = 0; n0 < rows; n0 += SIDE) {
      const nEnd = Math.min(rows, n0 + SIDE);
      for (let n = n0; n < nEnd; n++) {
        for (let k = k0; k < kEnd; k++) to[n * inputs + k] = from[k * rows + n] ?? 0;
      }
    }
  }
}
