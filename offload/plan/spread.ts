// Some of the layers, spread evenly between the others: which ones, what they take, and how many fit.

/** Which layers of all rest: spread evenly between streamed ones, so that drive and link never idle for long. */
export function spreadTiers(layerCount: number, residentLayers: number): boolean[] {
  return Array.from(
    { length: layerCount },
    (_, index) =>
      Math.floor(((index + 1) * residentLayers) / layerCount) >
      Math.floor((index * residentLayers) / layerCount),
  );
}

interface Spread {
  readonly resident: readonly boolean[];
  readonly bytes: number;
}

/** By number of layers at rest; many plans are weighed for the same layers. */
const known = new WeakMap<readonly number[], Map<number, Spread>>();

export function spreadOf(layerBytes: readonly number[], residentLayers: number): Spread {
  const spreads = known.get(layerBytes) ?? new Map<number, Spread>();
  known.set(layerBytes, spreads);
  const before = spreads.get(residentLayers);
  if (before) return before;
  const resident = spreadTiers(layerBytes.length, residentLayers);
  const bytes = layerBytes.reduce((total, one, index) => total + (resident[index] ? one : 0), 0);
  const spread = { resident, bytes };
  spreads.set(residentLayers, spread);
  return spread;
}

/** How many layers, up to `most`, fit into `freeBytes` when they are spread. */
export function mostAtRest(layerBytes: readonly number[], most: number, freeBytes: number): number {
  let count = 0;
  while (count < most && spreadOf(layerBytes, count + 1).bytes <= freeBytes) count++;
  return count;
}
