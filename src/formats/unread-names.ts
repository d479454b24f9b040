// Names that only tensors of formats have that are not read: enough to refuse a model before its weights are there.

import { OperatingError } from '../../offload/index.js';

/** What takes the place of `NAME.weight`, and whose it is. */
const UNREAD: readonly (readonly [RegExp, string])[] = [
  [/\.W_q$/, 'HQQ'],
  [/\.codebooks$/, 'AQLM'],
  [/\.q_weight$/, 'ExLlamaV2'],
  [/\.trellis$/, 'ExLlamaV3'],
  [/\.Qidxs\w*$/, 'QuIP#'],
  [/\.(centroids|indices)$/, 'VPTQ'],
];

/** Throws UNSUPPORTED. @param where the checkpoint, for messages */
export function refuseUnreadNames(where: string, names: Iterable<string>): void {
  for (const name of names) {
    const maker = UNREAD.find(([pattern]) => pattern.test(name))?.[1];
    if (maker === undefined) continue;
    throw new OperatingError(
      'UNSUPPORTED',
      `${where}: tensor ${name} is quantised by ${maker}, whose weights are not read: use the checkpoint that they were ` +
        'made from, with weights in F32, F16 or BF16',
    );
  }
}
