// Bodies: JSON of bounded size and depth, or a refusal that says what is wrong.

import { ApiError } from '../api/api-error.js';
import { parseBoundedAside } from '../files/bounded-json.js';

const MIB = 2 ** 20;
/** Texts take three to six bytes a token, and twice that with other letters written as escapes. */
const TOKEN_BYTES = 16;

/** What one request may take where nobody says it: as much as the context may hold, however it is written. */
export function usualBodyBytes(contextTokens: number | undefined): number {
  return contextTokens === undefined ? 4 * MIB : Math.max(MIB, TOKEN_BYTES * contextTokens);
}

/** Rejects with an ApiError. @param bytes nobody reads them any more */
export async function parseBody(bytes: Buffer): Promise<unknown> {
  const parsed = await parseBoundedAside(bytes);
  if ('value' in parsed) return parsed.value;
  const details = { status: 400, type: 'invalid_request_error', code: 'invalid_body' } as const;
  throw new ApiError(`the body ${parsed.problem}`, details);
}
