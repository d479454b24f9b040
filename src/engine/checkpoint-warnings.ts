// What is odd about a checkpoint that can be run all the same: said once, since results may be other than expected.

import type { Checkpoint, StoredTensor } from '../checkpoint/checkpoint.js';
import { storedAlike } from '../checkpoint/stored-alike.js';
import { ADAPTER_CONFIG } from '../checkpoint/unreadable.js';
import { show } from '../files/json-file.js';
import type { BoundModel } from '../models/binding.js';
import { FILLER_PREFIX } from '../pack/arrange.js';

/** Buffers that older versions stored beside the weights. */
const HARMLESS =
  /(^|\.)(attn|attention|attn\.attention)\.(bias|masked_bias)$|(^|\.)(rotary_emb|rotary_pos_emb)\.|(^|\.)(position_ids|attn_mask|causal_mask|embed_positions\._float_tensor)$/;
const BLOCK = /(?:^|\.)(?:h|layers|blocks)\.(\d+)\./;
const NAMES_SHOWN = 3;
/** Copies of tensors that are compared; more say nothing new. */
const COMPARED_TENSORS = 16;

/** A sentence per oddity. Errors: those of reading the weight files. */
export async function checkpointWarnings(
  checkpoint: Checkpoint,
  bound: BoundModel,
  names: readonly string[],
): Promise<string[]> {
  const warnings = [
    ...unusedTensors(checkpoint, bound),
    await tiedButDifferent(checkpoint, bound),
    await repeatedTensors(checkpoint),
    unfoundTensors(checkpoint),
    names.includes(ADAPTER_CONFIG)
      ? `${checkpoint.folder} has ${ADAPTER_CONFIG} beside a whole checkpoint: the adapter is not applied`
      : undefined,
  ];
  return warnings.filter((warning) => warning !== undefined);
}

function unusedTensors({ folder }: Checkpoint, { model, unused }: BoundModel): string[] {
  const extra = unused.filter(({ name }) => !HARMLESS.test(name) && !name.startsWith(FILLER_PREFIX));
  if (extra.length === 0) return [];
  const blockOf = ({ name }: StoredTensor) => Number(BLOCK.exec(name)?.[1] ?? -1);
  const beyond = extra.filter((tensor) => blockOf(tensor) >= model.blocks.length);
  const others = extra.filter((tensor) => !beyond.includes(tensor));
  const warnings: string[] = [];
  if (beyond.length > 0) {
    const stored = Math.max(...beyond.map(blockOf)) + 1;
    warnings.push(
      `${folder} holds tensors of ${stored} layers and config.json says ${model.blocks.length}: the last ` +
        `${stored - model.blocks.length} (${listed(beyond)}) are not used, as in transformers; if that is not meant, ` +
        'correct the number of layers in config.json',
    );
  }
  if (others.length > 0) {
    warnings.push(
      `${folder} holds ${others.length} ${others.length === 1 ? 'tensor' : 'tensors'} (${listed(others)}) that ` +
        `config.json does not name: not used, as in transformers; results are wrong if the model needs them`,
    );
  }
  return warnings;
}

async function tiedButDifferent(
  { folder, files }: Checkpoint,
  { tiedPair }: BoundModel,
): Promise<string | undefined> {
  if (!tiedPair) return undefined;
  const [table, head] = tiedPair;
  if (await storedAlike(files, table, head)) return undefined;
  return (
    `${folder}: tie_word_embeddings is true, but ${table.name} and ${head.name} differ: each is used as it is stored, ` +
    'as in transformers; set tie_word_embeddings to false in config.json to say so'
  );
}

async function repeatedTensors({
  folder,
  files,
  repeated,
  tensors,
}: Checkpoint): Promise<string | undefined> {
  const different: StoredTensor[] = [];
  for (const [name, before] of [...repeated].slice(0, COMPARED_TENSORS)) {
    const kept = tensors.get(name);
    if (kept && !(await storedAlike(files, before, kept))) different.push(kept);
  }
  const [first] = different;
  if (!first) return undefined;
  return (
    `${folder}: ${repeated.size} tensors are in more than one shard, and their contents differ (${listed(different)}): ` +
    `that of the last shard counts, as in transformers, for the first ${files[first.fileIndex]}`
  );
}

function unfoundTensors({ folder, unfound }: Checkpoint): string | undefined {
  const [first] = unfound;
  if (!first) return undefined;
  const what = unfound.size === 1 ? 'a tensor' : `${unfound.size} tensors`;
  return (
    `${folder}: the index names ${what} that no shard holds (${show(first[0])} in ${show(first[1])}): ` +
    'ignored, since the model does not need it'
  );
}

function listed(tensors: readonly StoredTensor[]): string {
  const names = tensors.slice(0, NAMES_SHOWN).map(({ name }) => name);
  return `${names.join(', ')}${tensors.length > NAMES_SHOWN ? ', …' : ''}`;
}
