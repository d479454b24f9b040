// Which pack a store is of: the same source and the same settings make the same one, and a part of another is found out.

import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { cannotOpen } from '../../offload/index.js';
import { PACK_ID } from '../checkpoint/pack-parts.js';
import { contentId } from '../staging/id.js';
import type { Scheme } from './scheme.js';

/** Another number where a version writes something else for the same source. */
const VERSION = 1;

/** Times tell apart what little of the content does not. */
export async function packId(
  files: readonly string[],
  { weights, group }: Scheme,
  gpus: number,
): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify([VERSION, weights, group, gpus]));
  for (const path of files) {
    const { size, mtimeNs } = await stat(path, { bigint: true }).catch((error) => {
      throw cannotOpen(path, error);
    });
    hash.update(`\0${size} ${mtimeNs}`);
  }
  return hash
    .update(await contentId(files))
    .digest('hex')
    .slice(0, 16);
}

/** What the header of every file of a store says. */
export function packMetadata(id: string, { weights, group }: Scheme, gpus: number): Record<string, string> {
  return {
    [PACK_ID]: id,
    'zero_inference.weights': weights,
    'zero_inference.group_size': String(group),
    'zero_inference.gpus': String(gpus),
  };
}
