// The model that `plan` looks at: a folder's headers, a shape, or no more of a hub's model than its configuration.

import { join } from 'node:path';
import { type OpenedModel, openModel } from '../engine/open-model.js';
import { shapeModel } from '../engine/shape.js';
import { checkType } from '../engine/weight-type.js';
import { readOptionalJsonObject } from '../files/json-file.js';
import { resolveModelFolder } from '../hub/model-folder.js';
import type { CommandContext } from './context.js';
import type { SharedOptions } from './options/shared-settings.js';
import { plannedPacked } from './packed-model.js';

/** Ends a download after config.json: nothing else is needed to plan. */
class ConfigurationIsEnough extends Error {
  readonly folder: string;
  constructor(folder: string) {
    super('the configuration is enough');
    this.folder = folder;
  }
}

/** Errors: those of opening a model, a shape, or the hub. */
export async function openPlanned(options: SharedOptions, context: CommandContext): Promise<OpenedModel> {
  const { name, dtype, packed, revision } = options;
  const shape = name.endsWith('.json') ? await readOptionalJsonObject(name, 'BAD_CONFIG') : undefined;
  if (shape) return shapeModel(shape, name, dtype);
  try {
    const folder = await resolveModelFolder(name, {
      revision,
      signal: context.interrupt.signal,
      afterConfig: (started) => {
        throw new ConfigurationIsEnough(started);
      },
    });
    const opened = await openModel(folder);
    checkType(opened, dtype);
    for (const warning of opened.warnings) context.log.warn(warning);
    return packed === undefined ? opened : await plannedPacked(opened, packed);
  } catch (error) {
    if (!(error instanceof ConfigurationIsEnough)) throw error;
    const path = join(error.folder, 'config.json');
    return shapeModel((await readOptionalJsonObject(path, 'BAD_CONFIG')) ?? {}, path, packed ?? dtype);
  }
}
