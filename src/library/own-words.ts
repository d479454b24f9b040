// Errors from below as a program is told them: with this package's names in place of the command line's, and with a code.

import { OperatingError } from '../../offload/index.js';
import { systemFailure } from '../files/system-failure.js';

/** What each option of the command line is here. */
export const OPTION_NAMES: Readonly<Record<string, string>> = {
  '--dram_memory': 'dramMemory',
  '--gpu_memory': 'gpuMemory',
  '--kv_dtype': 'kvDtype',
  '--kv_offload': 'kvOffload',
  '--compute_dtype': 'computeDtype',
  '--dtype': 'dtype',
  '--cpu_offload': "offload: 'dram'",
  '--nvme_offload_path': 'nvmePath',
  '--batch_size': 'maxSequences',
  '--max_context': 'contextTokens',
  '--max_new_tokens': 'maxNewTokens',
  '--generation_config': 'generationConfig',
  '--revision': 'revision',
  '--chat': 'messages',
  '--name': 'the model',
};

export function ownWords(sentence: string): string {
  return sentence.replaceAll(/--[a-z][a-z_]+/g, (option) => OPTION_NAMES[option] ?? option);
}

/** The error itself where there is nothing to say in another way. */
export function inOwnWords(thrown: unknown): unknown {
  const error = systemFailure(thrown) ?? thrown;
  if (!(error instanceof OperatingError)) return error;
  const message = ownWords(error.message);
  return message === error.message ? error : new OperatingError(error.code, message, { cause: error });
}
