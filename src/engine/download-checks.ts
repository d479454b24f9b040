// What is wrong with a model of the hub, said before gigabytes of it are fetched.

import { join } from 'node:path';
import { readOptionalJsonObject } from '../files/json-file.js';
import type { ResolveOptions } from '../hub/model-folder.js';
import { buildArchitecture } from '../models/registry.js';
import { loadChatTemplate } from '../text/chat.js';
import { loadTokenizer } from '../text/tokenizer/tokenizer.js';
import { openTokenizer } from './vocabulary.js';

/** What is needed beside the weights. */
export interface TextWishes {
  readonly tokenizer?: boolean;
  readonly chatTemplate?: boolean;
}

/** They throw BAD_CONFIG, UNSUPPORTED or BAD_TOKENIZER. */
export function checksWhileDownloading(
  wants: TextWishes,
): Required<Pick<ResolveOptions, 'afterConfig' | 'beforeWeights'>> {
  return {
    afterConfig: async (folder) => {
      const path = join(folder, 'config.json');
      buildArchitecture((await readOptionalJsonObject(path, 'BAD_CONFIG')) ?? {}, path);
    },
    // Without a tokenizer, a model still continues ids.
    beforeWeights: async (folder) => {
      await (wants.tokenizer ? loadTokenizer : openTokenizer)(folder);
      if (wants.chatTemplate) await loadChatTemplate(folder);
    },
  };
}
