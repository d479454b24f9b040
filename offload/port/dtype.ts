// Element types of tensors and their sizes.

/**
 * Kernels compute with f32, f16 and bf16. The types of one byte hold codes and scales of them: u8 (often two codes of four
 * bits), i8, e4m3 (OCP 8-bit floating point: 4 exponent and 3 mantissa bits, up to 448, no infinities) and e8m0 (a power
 * of two).
 */
export type DType = 'f32' | 'f16' | 'bf16' | 'i32' | 'u8' | 'i8' | 'e4m3' | 'e8m0';

/** What kernels compute with. */
export type FloatType = Extract<DType, 'f32' | 'f16' | 'bf16'>;

export function isFloat(dtype: DType): dtype is FloatType {
  return dtype === 'f32' || dtype === 'f16' || dtype === 'bf16';
}

export const DTYPE_BYTES: Readonly<Record<DType, number>> = {
  f32: 4,
  f16: 2,
  bf16: 2,
  i32: 4,
  u8: 1,
  i8: 1,
  e4m3: 1,
  e8m0: 1,
};

/** Number of elements of a shape; 1 for a scalar (`[]`). */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, dimension) => product * dimension, 1);
}
