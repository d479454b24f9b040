// Who may ask: keys compared in constant time, and names that this machine is asked by.

import { createHash, timingSafeEqual } from 'node:crypto';
import { ApiError } from '../api/api-error.js';

/** Keys of clients; without any, everybody may ask. */
export class Keys {
  readonly #digests: readonly Buffer[];

  constructor(keys: readonly string[]) {
    this.#digests = keys.map(digest);
  }

  get areNeeded(): boolean {
    return this.#digests.length > 0;
  }

  /** Which key a request has; undefined where none is needed. Throws an ApiError. @param header `authorization` */
  check(header: string | undefined): number | undefined {
    if (!this.areNeeded) return undefined;
    const [, given] = /^Bearer +(\S{1,1024})$/i.exec(header ?? '') ?? [];
    if (given === undefined)
      throw refused('a key is needed: send it as Authorization: Bearer KEY', 'missing_api_key');
    const asked = digest(given);
    let found = -1;
    // Looks at all of them, so that the time says nothing of which it was, or how much of it was right.
    for (const [index, known] of this.#digests.entries()) if (timingSafeEqual(known, asked)) found = index;
    if (found < 0) throw refused('this key is not known here', 'invalid_api_key');
    return found;
  }
}

/** All have one length, whatever the keys have. */
function digest(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}

function refused(message: string, code: string): ApiError {
  return new ApiError(message, { status: 401, type: 'authentication_error', code });
}

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|::1|::ffff:127(\.\d{1,3}){3})$/i;

/** Nobody from elsewhere reaches a server there. */
export function isLoopback(host: string): boolean {
  return LOOPBACK.test(host);
}

/**
 * Throws an ApiError where a server of this machine alone, which asks for no key, is asked by another name: a page from
 * elsewhere may have had its own name lead here.
 */
export function checkHost(header: string | undefined): void {
  const [, bracketed, plain] = /^(?:\[([^\]]*)\]|([^:]*))(?::\d+)?$/.exec(header ?? '') ?? [];
  if (isLoopback(bracketed ?? plain ?? '')) return;
  throw new ApiError('this server is for this machine alone: ask it as localhost, or start it with a key', {
    status: 403,
    type: 'invalid_request_error',
    code: 'host_not_allowed',
  });
}
