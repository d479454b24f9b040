// An opened model as several devices compute it that share its layers.

import { join } from 'node:path';
import { shareModel } from '../models/share-model.js';
import type { OpenedModel } from './open-model.js';

/** Throws UNSUPPORTED for what so many devices cannot share. */
export function shareOpened(opened: OpenedModel, devices: number): OpenedModel {
  const { config, folder } = opened.checkpoint;
  const configured = { config, path: join(folder, 'config.json') };
  return { ...opened, model: shareModel(opened.model, configured, devices) };
}
