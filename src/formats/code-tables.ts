// The values that bitsandbytes' codes of 4 bits stand for: files repeat them, and other tools take their own.

const NF4 = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
  -0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725,
  0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
];
const FP4_TWELFTHS = [0, 0.0625, 8, 12, 4, 6, 2, 3];
const FP4 = [1, -1].flatMap((sign) => FP4_TWELFTHS.map((twelfths) => (sign * twelfths) / 12));
/** Values of f32 that were computed in another order. */
const TOLERANCE = 1e-5;

/** @param bytes 16 values of f32 */
export function isKnownTable(bytes: Uint8Array): boolean {
  const values = [...new Float32Array(Uint8Array.from(bytes).buffer)];
  return [NF4, FP4].some((table) =>
    values.every((value, code) => Math.abs(value - (table[code] ?? 0)) <= TOLERANCE),
  );
}
