// ALiBi slopes (Press et al. 2022) for any number of heads.

/**
 * A geometric sequence for a power of two; otherwise the sequence of the next lower power, then every second slope
 * of the next higher one, as the authors' code does.
 * @returns f32 [headCount]
 */
export function alibiSlopes(headCount: number): Float32Array {
  const lower = 2 ** Math.floor(Math.log2(headCount));
  const slopes = geometric(lower);
  if (lower < headCount) {
    const between = geometric(2 * lower).filter((_, index) => index % 2 === 0);
    slopes.push(...between.slice(0, headCount - lower));
  }
  return Float32Array.from(slopes);
}

/** 2^(−8/n), 2^(−16/n), … for n heads. */
function geometric(count: number): number[] {
  return Array.from({ length: count }, (_, index) => 2 ** ((-8 / count) * (index + 1)));
}

/**
 * MPT's: the sequence of the next higher power of two, from 2^(−most/n) down to 2^(−most); where there are fewer heads,
 * every second slope of it, then the others.
 * @returns f32 [headCount]
 */
export function mptSlopes(headCount: number, most: number): Float32Array {
  const higher = 2 ** Math.ceil(Math.log2(headCount));
  const slopes = Array.from({ length: higher }, (_, index) => 2 ** ((-most / higher) * (index + 1)));
  const everySecond = (first: number) => slopes.filter((_, index) => index % 2 === first);
  const ordered = higher === headCount ? slopes : [...everySecond(1), ...everySecond(0)];
  return Float32Array.from(ordered.slice(0, headCount));
}
