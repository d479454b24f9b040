// From what --name says to a folder: one that exists, or a model of the hub, downloaded with progress where need be.

import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { counted, formatBytes } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { readOptionalJsonObject } from '../files/json-file.js';
import { type DownloadProgress, resolveModelFolder } from '../hub/model-folder.js';
import { buildArchitecture } from '../models/registry.js';
import { loadChatTemplate } from '../text/chat.js';
import { hasTokenizer } from '../text/tokenizer/settings.js';
import { loadTokenizer } from '../text/tokenizer/tokenizer.js';
import type { CommandContext } from './context.js';
import { badOption } from './options/option-reader.js';

/** What a command needs beside the weights. */
export interface TextWishes {
  readonly tokenizer?: boolean;
  readonly chatTemplate?: boolean;
}

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
    afterConfig: async (folder) => {
      const path = join(folder, 'config.json');
      buildArchitecture((await readOptionalJsonObject(path, 'BAD_CONFIG')) ?? {}, path);
    },
    beforeWeights: (folder) => checkTextFiles(folder, wants),
  });
  return progress.during(() => (state ? describe(state) : 'asking the hub'), work);
}

/** What is wrong with these is said before gigabytes are fetched; without a tokenizer, a model still continues ids. */
async function checkTextFiles(folder: string, { tokenizer, chatTemplate }: TextWishes): Promise<void> {
  if (tokenizer || (await hasTokenizer(folder))) await loadTokenizer(folder);
  if (chatTemplate) await loadChatTemplate(folder);
}

function describe({ doneBytes, totalBytes, doneFiles, totalFiles }: DownloadProgress): string {
  return `download: ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}, ${doneFiles} of ${counted(totalFiles, 'file')}`;
}
