// What the system refused and nobody gave a code: no fault of this program, so it gets one here.

import { type ErrorCode, OperatingError } from '../../offload/index.js';

/** System calls that change files. */
const WRITES = new Set(
  'write writev ftruncate truncate fsync fdatasync rename unlink rm rmdir mkdir mkdtemp link symlink fchmod chmod utimes copyfile'.split(
    ' ',
  ),
);

/** Undefined for other errors. */
export function systemFailure(error: unknown): OperatingError | undefined {
  if (!(error instanceof Error && 'syscall' in error && 'code' in error)) return undefined;
  const { syscall, code, message } = error;
  const path = 'path' in error && typeof error.path === 'string' ? error.path : 'a file';
  if (code === 'EMFILE' || code === 'ENFILE') {
    return failure(
      'SYSTEM_LIMIT',
      `${path} cannot be opened (${message}): raise the limit of open files (ulimit -n)`,
    );
  }
  if (WRITES.has(String(syscall))) {
    return failure(
      'WRITE_FAILED',
      `${path} cannot be written (${message}): look at its drive's space and the kernel log`,
    );
  }
  return failure(
    code === 'ENOENT' ? 'NOT_FOUND' : 'READ_FAILED',
    `${path} cannot be read (${message}): look at its permissions, its drive and the kernel log`,
  );

  function failure(as: ErrorCode, sentence: string): OperatingError {
    return new OperatingError(as, sentence, { cause: error });
  }
}
