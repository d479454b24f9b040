// A packed store that is made at first use and found again: only where it is still what was made.

import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { type PackOptions, pack } from './pack.js';
import { isIntact, PACK_RECORD, readRecord } from './record.js';

/** Makes sure that the store is in `folder`. Errors: those of `pack`; WRITE_FAILED for a folder that holds anything else. */
export async function keepPacked(options: PackOptions): Promise<void> {
  if (await isFound(options)) return;
  try {
    await pack(options);
  } catch (error) {
    // Another process may have made it meanwhile.
    const isThere =
      error instanceof OperatingError && error.code === 'WRITE_FAILED' && (await isFound(options));
    if (!isThere) throw error;
  }
}

async function isFound({ folder, id, plan }: PackOptions): Promise<boolean> {
  const path = resolve(folder);
  if (!(await ifThere(path, stat(path)))) return false;
  const record = await readRecord(path);
  const problem =
    record?.id === id ? await touched(path, plan.files, record) : `has no ${PACK_RECORD} of that pack`;
  if (problem === undefined) return true;
  throw new OperatingError(
    'WRITE_FAILED',
    `${path} is where these weights lie packed, but it ${problem}: remove the folder, and they are packed again`,
  );
}

async function touched(
  folder: string,
  files: PackOptions['plan']['files'],
  record: NonNullable<Awaited<ReturnType<typeof readRecord>>>,
): Promise<string | undefined> {
  for (const { name } of files) {
    const file = record.files.get(name);
    if (!file || !(await isIntact(folder, file))) return `has another ${name} than was written, or none`;
  }
  return undefined;
}
