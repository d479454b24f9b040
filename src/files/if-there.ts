// What may be absent: undefined where it is, and an error where the system does not say, since a run would go on otherwise.

import { OperatingError } from '../../offload/index.js';
import { reason, systemCode } from './failure-reason.js';

/** What the system says where nothing is there, and of names that are too long to be anybody's. */
const ABSENT = new Set(['ENOENT', 'ENOTDIR', 'EISDIR', 'ENAMETOOLONG']);

/** What `asked`, a question about `path`, is answered. Errors: NOT_FOUND where it cannot be told whether it is there. */
export async function ifThere<T>(path: string, asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (ABSENT.has(systemCode(error) ?? '')) return undefined;
    throw new OperatingError('NOT_FOUND', `${path} cannot be looked at: ${reason(error)}`, { cause: error });
  }
}
