// Opens a checkpoint: its configuration and headers, and the tensors of its architecture. No weight is read.

import type { ModelSpec } from '../../offload/index.js';
import { type Checkpoint, openWeights, readConfiguration } from '../checkpoint/checkpoint.js';
import { bindModel } from '../models/binding.js';
import { buildArchitecture } from '../models/registry.js';
import { checkpointWarnings } from './checkpoint-warnings.js';

export interface OpenedModel {
  readonly checkpoint: Checkpoint;
  readonly model: ModelSpec;
  /** A sentence per thing that is odd about the checkpoint; whoever runs the model says them. */
  readonly warnings: readonly string[];
}

/** Reads configuration and headers only. Throws an OperatingError for anything that is missing or unsupported. */
export async function openModel(folder: string): Promise<OpenedModel> {
  const configuration = await readConfiguration(folder);
  // What cannot run is refused before its weight files are opened.
  const architecture = buildArchitecture(configuration.config, configuration.path);
  const checkpoint = await openWeights(configuration);
  const bound = bindModel(architecture, checkpoint);
  const warnings = await checkpointWarnings(checkpoint, bound, configuration.names);
  return { checkpoint, model: bound.model, warnings };
}
