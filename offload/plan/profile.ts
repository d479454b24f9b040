// A machine as the predictor sees it: capacities and measured rates.

import type { z } from 'zod';
import type { schema } from './profile-schema.js';

export type HardwareProfile = Readonly<z.infer<typeof schema>>;
export type ProductRates = HardwareProfile['compute']['products'][number];

/** The text of a profile's file. */
export function profileText(profile: HardwareProfile): string {
  return `${JSON.stringify(renameKeys(profile, toSnake), undefined, 2)}\n`;
}

/** Keys of all objects inside, by `rename`: reports and files write `bytes_per_second` for `bytesPerSecond`. */
export function renameKeys(value: unknown, rename: (key: string) => string): unknown {
  if (Array.isArray(value)) return value.map((item) => renameKeys(item, rename));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [rename(key), renameKeys(inner, rename)]),
  );
}

export function toSnake(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
