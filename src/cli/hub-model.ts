// From what --name says to a folder: one that exists, or a model of the hub, downloaded with progress where need be.

import { stat } from 'node:fs/promises';
import { counted, formatBytes } from '../../offload/index.js';
import { checksWhileDownloading, type TextWishes } from '../engine/download-checks.js';
import { ifThere } from '../files/if-there.js';
import { type DownloadProgress, resolveModelFolder } from '../hub/model-folder.js';
import type { CommandContext } from './context.js';
import { badOption } from './options/option-reader.js';

/** Errors: those of `resolveModelFolder`; BAD_CONFIG, UNSUPPORTED or BAD_TOKENIZER before the weights of such a model are downloaded. */
export async function modelFolder(
  name: string,
  revision: string | undefined,
  { log, progress, interrupt }: CommandContext,
  wants: TextWishes = {},
): Promise<string> {
  if (revision !== undefined && (await ifThere(name, stat(name)))) {
    throw badOption(`--revision is for models of the hub, and --name is the folder ${name}: leave it out`);
  }
  let state: DownloadProgress | undefined;
  const work = resolveModelFolder(name, {
    revision,
    signal: interrupt.signal,
    onDownload: (cacheFolder) => log.info(`downloading ${name} into ${cacheFolder}`),
    onProgress: (now) => {
      state = now;
    },
    ...checksWhileDownloading(wants),
  });
  return progress.during(() => (state ? describe(state) : 'asking the hub'), work);
}

function describe({ doneBytes, totalBytes, doneFiles, totalFiles }: DownloadProgress): string {
  return `download: ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}, ${doneFiles} of ${counted(totalFiles, 'file')}`;
}
