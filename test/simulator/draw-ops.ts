// Drawing on simulated devices: tokens made of hashes of all that decides, and the likeliest as they are.

import type { Op } from '../../offload/port/ops.js';
import { dimension } from '../../offload/port/tensor.js';
import { integers } from './footprint.js';
import { mix, rowHashes } from './hashes.js';
import { floatRows, idWords } from './op-rows.js';

type OpOf<N extends Op['op']> = Extract<Op, { op: N }>;

/** The likeliest of each row, as they are. */
export function topTokens({ tokens, values, logits }: OpOf<'top_tokens'>): void {
  const { floats, starts, length } = floatRows(logits);
  const [{ words, starts: to }, { floats: found, starts: at }] = [idWords(tokens), floatRows(values)];
  const wanted = dimension(tokens, 1);
  starts.forEach((start, row) => {
    const columns = Array.from({ length }, (_, column) => column);
    columns.sort((a, b) => (floats[start + b] ?? 0) - (floats[start + a] ?? 0) || a - b);
    columns.slice(0, wanted).forEach((column, place) => {
      words[to + row * (tokens.strides[0] ?? 0) + place] = column;
      found[(at[row] ?? 0) + place] = floats[start + column] ?? 0;
    });
  });
}

/** A token that depends on everything that drawing looks at. */
export function sample({ out, logits, tables }: OpOf<'sample'>): void {
  const { words, starts: to } = idWords(out);
  const { settings, draws, history, added, allowed } = tables;
  const entriesOf = added && integers(added.entriesOf);
  const addedTokens = added && integers(added.tokens);
  const addends =
    added && rowHashes({ ...added.values, shape: [dimension(added.values, 0), 1], strides: [1, 1] });
  const maskOf = allowed && integers(allowed.maskOf);
  const masks = allowed && rowHashes(allowed.masks);
  const [hashes, chosen, past] = [rowHashes(logits), rowHashes(settings), integers(history)];
  const draw = integers(draws);
  hashes.forEach((logitHash, row) => {
    const [topK = 0, bits = 0, first = 0, count = 0] = draw.subarray(row * 4, row * 4 + 4);
    let hash = mix(mix(mix(logitHash, chosen[row] ?? 0), topK), bits);
    for (const token of past.subarray(first, first + count)) hash = mix(hash, token);
    const [begin = 0, entries = 0] = entriesOf?.subarray(row * 2, row * 2 + 2) ?? [];
    for (let i = begin; i < begin + entries; i++)
      hash = mix(mix(hash, addedTokens?.[i] ?? 0), addends?.[i] ?? 0);
    const mask = maskOf?.[row] ?? -1;
    if (mask >= 0) hash = mix(hash, masks?.[mask] ?? 0);
    words[to + row] = (hash >>> 0) % dimension(logits, 1);
  });
}
