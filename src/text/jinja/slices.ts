// Python's slices: bounds that count from the end, and steps.

import { optionalWhole } from './arguments.js';
import { TemplateRuntimeError } from './errors.js';
import type { Value } from './values.js';

/** For a step of 1. */
export function sliceBounds(
  length: number,
  start: Value | undefined,
  stop: Value | undefined,
): { start: number; stop: number } {
  const clamp = (place: number | undefined, otherwise: number) => {
    if (place === undefined) return otherwise;
    return Math.min(Math.max(place < 0 ? place + length : place, 0), length);
  };
  return {
    start: clamp(optionalWhole(start, 'slice'), 0),
    stop: clamp(optionalWhole(stop, 'slice'), length),
  };
}

export function sliceOf<T>(
  items: readonly T[],
  start: Value | undefined,
  stop: Value | undefined,
  step: Value | undefined,
): T[] {
  const stride = optionalWhole(step, 'slice') ?? 1;
  if (stride === 0) throw new TemplateRuntimeError('slice step cannot be zero');
  if (stride === 1) {
    const bounds = sliceBounds(items.length, start, stop);
    return items.slice(bounds.start, bounds.stop);
  }
  const [least, most] = stride > 0 ? [0, items.length] : [-1, items.length - 1];
  const clamp = (value: Value | undefined, otherwise: number) => {
    const place = optionalWhole(value, 'slice');
    if (place === undefined) return otherwise;
    return Math.min(Math.max(place < 0 ? place + items.length : place, least), most);
  };
  const first = clamp(start, stride > 0 ? least : most);
  const last = clamp(stop, stride > 0 ? most : least);
  const taken: T[] = [];
  for (let at = first; stride > 0 ? at < last : at > last; at += stride) {
    const item = items[at];
    if (item !== undefined) taken.push(item);
  }
  return taken;
}
