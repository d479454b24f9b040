// Names and times of answers.

import { randomUUID } from 'node:crypto';

/** Such as `chatcmpl-…`. */
export function newId(prefix: string): string {
  return `${prefix}${randomUUID().replaceAll('-', '')}`;
}

/** In seconds since 1970. */
export function nowSeconds(): number {
  return Math.floor(Date.now() / 1e3);
}
