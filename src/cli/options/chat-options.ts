// Options of `chat`.

import type { OptionReader } from './option-reader.js';
import { readSamplingOptions, type SamplingOptions } from './sampling-options.js';
import { readSharedOptions } from './shared-options.js';
import type { SharedOptions } from './shared-settings.js';

export interface ChatOptions extends SharedOptions, SamplingOptions {
  /** To be said before anybody is asked. */
  readonly prompts: readonly string[];
  readonly system: string | undefined;
  /** New tokens of an answer; undefined: what the context has left. */
  readonly maxNewTokens: number | undefined;
  readonly maxContext: number | undefined;
}

/** Throws BAD_OPTION, UNSUPPORTED or NO_DEVICE. */
export function readChatOptions(options: OptionReader): ChatOptions {
  return {
    ...readSharedOptions(options, 'one'),
    ...readSamplingOptions(options, true),
    prompts: options.list('prompt'),
    system: options.text('system'),
    maxNewTokens: options.count('max_new_tokens'),
    maxContext: options.count('max_context'),
  };
}
