// Files of a packed store belong together: each names its pack, and parts of different ones would give wrong texts.

import { basename } from 'node:path';
import { OperatingError } from '../../offload/index.js';

/** Key in the metadata of such files. */
export const PACK_ID = 'zero_inference.pack';

interface PartHeader {
  readonly path: string;
  readonly metadata?: Readonly<Record<string, string>>;
}

/** Throws MIXED_PACKS where some files are of another pack, or of none. @param folder for messages */
export function checkPackParts(folder: string, headers: readonly PartHeader[]): void {
  const idOf = ({ metadata }: PartHeader) => metadata?.[PACK_ID];
  const first = headers.find((header) => idOf(header) !== undefined);
  const other = first && headers.find((header) => idOf(header) !== idOf(first));
  if (!other) return;
  const of = idOf(other) === undefined ? 'of no pack' : `of pack ${idOf(other)}`;
  throw new OperatingError(
    'MIXED_PACKS',
    `${folder} holds parts of different packs: ${basename(first.path)} is of pack ${idOf(first)} and ` +
      `${basename(other.path)} is ${of}: pack the checkpoint again into an empty folder`,
  );
}
