// The tokenizer beside a model's weights where there is one, and what its configuration says of ids where there is none.

import { configuredRole } from '../text/tokenizer/ending-ids.js';
import { hasTokenizer } from '../text/tokenizer/settings.js';
import { loadTokenizer, type Tokenizer } from '../text/tokenizer/tokenizer.js';
import type { OpenedModel } from './open-model.js';

/** The tokenizer beside the weights; undefined where there is none, as with random weights. */
export async function openTokenizer(folder: string): Promise<Tokenizer | undefined> {
  return (await hasTokenizer(folder)) ? loadTokenizer(folder) : undefined;
}

/** Ids that generation_config.json or config.json give for a role such as `eos`; for checkpoints without a tokenizer. */
export function configuredIds({ checkpoint }: OpenedModel, role: 'bos' | 'eos'): number[] {
  const { generationConfig, config } = checkpoint;
  return configuredRole(
    Object.keys(generationConfig).length > 0 ? generationConfig : undefined,
    config,
    role,
  );
}
