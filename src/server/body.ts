// Bodies: JSON of bounded size and depth, or a refusal that says what is wrong.

import { ApiError } from '../api/api-error.js';
import { parseBoundedAside } from '../files/bounded-json.js';

/** Rejects with an ApiError. @param bytes nobody reads them any more */
export async function parseBody(bytes: Buffer): Promise<unknown> {
  const parsed = await parseBoundedAside(bytes);
  if ('value' in parsed) return parsed.value;
  const details = { status: 400, type: 'invalid_request_error', code: 'invalid_body' } as const;
  throw new ApiError(`the body ${parsed.problem}`, details);
}
