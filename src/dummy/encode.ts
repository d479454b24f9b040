// Numbers as the bits of each stored type, by exact arithmetic alone, so that all machines agree.

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);

export function f32Bits(value: number): number {
  float[0] = value;
  return floatBits[0] as number;
}

/** The upper half of an f32, rounded to nearest, ties to even. */
export function bf16Bits(value: number): number {
  const bits = f32Bits(value);
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** For |value| < 65504. Rounds to nearest, ties to even. */
export function f16Bits(value: number): number {
  const sign = value < 0 ? 0x8000 : 0;
  const size = Math.abs(value);
  // The exponent of an f16 stops at -14; below, the steps stay 2^-24.
  const exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const steps = roundToEven(size * 2 ** (10 - exponent));
  // Adding lets a mantissa that rounds up to 2048 carry into the exponent; 1024 steps are the implicit leading one.
  return sign + (exponent + 14) * 1024 + steps;
}

/** For |value| <= 448; as above, with exponents from -6 and three bits of mantissa. */
export function e4m3Bits(value: number): number {
  const sign = value < 0 ? 0x80 : 0;
  const size = Math.abs(value);
  const exponent = Math.max(Math.floor(Math.log2(size)), -6);
  return sign + (exponent + 6) * 8 + roundToEven(size * 2 ** (3 - exponent));
}

/** The nearest power of two. */
export function e8m0Bits(value: number): number {
  return 127 + Math.round(Math.log2(value));
}

const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

/** The nearest of the sixteen values of two exponent bits and one of mantissa. */
export function e2m1Bits(value: number): number {
  const size = Math.abs(value);
  let nearest = 0;
  for (const [code, candidate] of E2M1.entries()) {
    if (Math.abs(candidate - size) < Math.abs((E2M1[nearest] ?? 0) - size)) nearest = code;
  }
  return (value < 0 ? 8 : 0) + nearest;
}

function roundToEven(value: number): number {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 === 1 ? rounded - 1 : rounded;
}
