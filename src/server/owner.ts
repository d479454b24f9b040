// Whose files and batches a request may see: those of its key, by which they are known also after a restart.

import { createHash } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { ApiError } from '../api/api-error.js';

/** Null where no key is asked for: everything is everybody's then. */
export function ownerOf({ client, headers }: FastifyRequest): string | null {
  if (!client.startsWith('key ')) return null;
  const key = (headers.authorization ?? '').replace(/^Bearer +/i, '');
  return createHash('sha256').update(`zero-inference owner ${key}`).digest('hex').slice(0, 24);
}

/** Throws an ApiError for a form that a page from elsewhere has sent: browsers send these without asking first. */
export function checkOrigin({ headers }: FastifyRequest): void {
  const { origin, host } = headers;
  if (headers['sec-fetch-site'] !== 'cross-site' && (origin === undefined || isOf(origin, host))) return;
  const details = { status: 403, type: 'invalid_request_error', code: 'origin_not_allowed' } as const;
  throw new ApiError('pages from elsewhere may not send files here', details);
}

function isOf(origin: string, host: string | undefined): boolean {
  return URL.canParse(origin) && new URL(origin).host === host;
}
