// Opens a checkpoint: its configuration and headers, and the tensors of its architecture. Of weights nothing is read but
// what says how they are stored, and their scales as far as they are few.

import type { ModelSpec } from '../../offload/index.js';
import { type Checkpoint, openWeights, readConfiguration } from '../checkpoint/checkpoint.js';
import { textPart } from '../checkpoint/text-part.js';
import type { JsonObject } from '../files/json-file.js';
import { checkScales } from '../formats/check-scales.js';
import { readDeclared } from '../formats/declared.js';
import { readNotes } from '../formats/notes.js';
import { bindModel } from '../models/binding.js';
import { buildArchitecture } from '../models/registry.js';
import { checkpointWarnings } from './checkpoint-warnings.js';

export interface OpenedModel {
  readonly checkpoint: Checkpoint;
  readonly model: ModelSpec;
  /** A sentence per thing that is odd about the checkpoint; whoever runs the model says them. */
  readonly warnings: readonly string[];
}

/** Reads configuration, headers and small tensors only. Throws an OperatingError for anything that is missing or unsupported. */
export async function openModel(folder: string): Promise<OpenedModel> {
  const configuration = await readConfiguration(folder);
  // What cannot run is refused before its weight files are opened.
  const { config, path, quantiser } = configuration;
  const architecture = buildArchitecture(config, path);
  const declared = readDeclared(config, path, quantiser);
  const checkpoint = await openWeights(configuration);
  const bound = bindModel(architecture, checkpoint, await readNotes(checkpoint, declared));
  await checkScales(checkpoint, bound.model);
  const warnings = await checkpointWarnings(checkpoint, bound, configuration.names);
  const limited = architecture.unneeded ? indexLimit(bound.model, configuration) : [];
  return { checkpoint, model: bound.model, warnings: [...warnings, ...limited] };
}

/** Where a context ends although positions go on: said before anybody asks for more. */
function indexLimit(
  { maxContextTokens: most = Number.POSITIVE_INFINITY }: ModelSpec,
  { config, path }: { readonly config: JsonObject; readonly path: string },
): string[] {
  const positions = textPart(config).config.max_position_embeddings;
  if (typeof positions !== 'number' || positions <= most) return [];
  return [
    `${path} has ${positions} positions, but beyond ${most} an index would choose what each token sees, which is not ` +
      `computed: contexts end at ${most} tokens`,
  ];
}
