// Opens a checkpoint: its configuration and headers, and the tensors of its architecture. Of weights nothing is read but
// what says how they are stored, and their scales as far as they are few.

import type { ModelSpec } from '../../offload/index.js';
import { type Checkpoint, openWeights, readConfiguration } from '../checkpoint/checkpoint.js';
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
  return { checkpoint, model: bound.model, warnings };
}
