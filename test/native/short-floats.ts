// Floating point of 16 and 8 bits from and to the numbers of tests.

export function fromF16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

/** Truncates, which is enough for making test values; denormals included, overflow to infinity, NaN stays NaN. */
export function toF16(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude >= 65536) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | Math.floor(magnitude * 2 ** 24);
  const exponent = Math.floor(Math.log2(magnitude));
  return sign | ((exponent + 15) << 10) | Math.floor((magnitude / 2 ** exponent - 1) * 1024);
}

const E4M3_NAN = 0x7f;

/** 1 sign, 4 exponent and 3 fraction bits, without infinities. */
export function fromE4M3(bits: number): number {
  const sign = bits & 0x80 ? -1 : 1;
  const exponent = (bits >> 3) & 15;
  const fraction = bits & 7;
  if (exponent === 15 && fraction === 7) return Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -9 : (8 + fraction) * 2 ** (exponent - 10));
}

/** To nearest, ties to even; what is beyond 448 becomes 448, and NaN stays NaN. */
export function toE4M3(value: number): number {
  if (Number.isNaN(value)) return E4M3_NAN;
  const sign = value < 0 || Object.is(value, -0) ? 0x80 : 0;
  const magnitude = Math.min(448, Math.abs(value));
  const exponent = Math.max(-6, Math.floor(Math.log2(magnitude)));
  const steps = toEven(magnitude / 2 ** (exponent - 3));
  // Sixteen steps carry into the exponent, and fewer than eight are below the smallest normal number.
  return sign | ((exponent + 6) * 8 + steps);
}

export function fromE8M0(bits: number): number {
  return bits === 255 ? Number.NaN : 2 ** (bits - 127);
}

/** Takes powers of two. */
export function toE8M0(value: number): number {
  return Number.isNaN(value) ? 255 : Math.log2(value) + 127;
}

/** The nearest whole number, the even one of two. */
export function toEven(value: number): number {
  const below = Math.floor(value);
  const above = value - below;
  return above > 0.5 || (above === 0.5 && below % 2 !== 0) ? below + 1 : below;
}

/** The nearest value of a type, ties to even; infinite where it is beyond the largest. */
export function toNearestF16(value: number): number {
  return rounded(value, { fractionBits: 10, leastExponent: -14, largest: 65504 });
}

export function toNearestBF16(value: number): number {
  return rounded(value, { fractionBits: 7, leastExponent: -126, largest: (2 - 2 ** -7) * 2 ** 127 });
}

export function toNearestE4M3(value: number): number {
  return fromE4M3(toE4M3(value));
}

function rounded(
  value: number,
  { fractionBits, leastExponent, largest }: Record<'fractionBits' | 'leastExponent' | 'largest', number>,
): number {
  if (!Number.isFinite(value) || value === 0) return value;
  const exponent = Math.max(leastExponent, Math.floor(Math.log2(Math.abs(value))));
  const step = 2 ** (exponent - fractionBits);
  const nearest = toEven(value / step) * step;
  return Math.abs(nearest) > largest ? Math.sign(value) * Number.POSITIVE_INFINITY : nearest;
}
