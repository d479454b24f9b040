// Reads text that a user names: UTF-8 or nothing, with errors that name the file.

import { readFile } from 'node:fs/promises';
import { OperatingError } from '../offload/index.js';
import { reason, systemCode } from './json-file.js';

/** The file's text without a byte order mark. Throws NOT_FOUND or BAD_INPUT; `option` is where the path came from. */
export async function readTextFile(path: string, option: string): Promise<string> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const absent = systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR';
    throw new OperatingError(
      'NOT_FOUND',
      absent
        ? `${option}: there is no file '${path}'`
        : `${option}: ${path} cannot be read: ${reason(error)}`,
      { cause: error },
    );
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new OperatingError('BAD_INPUT', `${option}: ${path} is not UTF-8 text: convert it`, {
      cause: error,
    });
  }
}
