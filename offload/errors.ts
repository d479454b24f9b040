// Operating errors: one table of codes, and one class that carries a code and a sentence with the numbers in it.

/** What each code means and the exit status it gives at the command line. Documented in README.md; a test compares. */
export const ERROR_CODES = {
  BAD_OPTION: { exitStatus: 2, meaning: 'an option is unknown, malformed, or contradicts another' },
  BAD_INPUT: { exitStatus: 2, meaning: 'a prompt, prompts file, or text file cannot be used' },
  NOT_FOUND: { exitStatus: 3, meaning: 'a file or folder does not exist or cannot be opened' },
  NO_ACCESS: { exitStatus: 3, meaning: 'the hub refuses access to a model: it is gated or private' },
  BAD_CONFIG: {
    exitStatus: 4,
    meaning: 'config.json or another configuration file is malformed or misses a value',
  },
  UNSUPPORTED: {
    exitStatus: 4,
    meaning: 'the architecture, a value in the configuration, or this machine is not supported',
  },
  BAD_SAFETENSORS: { exitStatus: 5, meaning: 'a safetensors file is malformed or truncated' },
  BAD_TORCH_FILE: {
    exitStatus: 5,
    meaning: 'a PyTorch .bin file is malformed, truncated, or holds more than plain tensors',
  },
  BAD_INDEX: {
    exitStatus: 5,
    meaning: 'the index of a sharded checkpoint is malformed or names a shard that is absent',
  },
  MIXED_PACKS: { exitStatus: 5, meaning: 'the files of a packed store are of different packs' },
  MISSING_TENSOR: { exitStatus: 5, meaning: 'the checkpoint lacks a tensor that the architecture needs' },
  WRONG_SHAPE: {
    exitStatus: 5,
    meaning: 'a tensor has another shape or type than the configuration implies',
  },
  BAD_WEIGHTS: {
    exitStatus: 5,
    meaning: 'scales, groups or settings of quantised weights hold values that none can have: damaged files',
  },
  BAD_TOKENIZER: { exitStatus: 5, meaning: 'tokenizer.json is absent or malformed' },
  DOES_NOT_FIT: { exitStatus: 6, meaning: 'the plan needs more memory than the budget allows' },
  SYSTEM_LIMIT: {
    exitStatus: 6,
    meaning:
      'the system allows too few threads, processes or open files: a limit of the user or the control group',
  },
  NO_SPACE: { exitStatus: 6, meaning: 'the disk has too little space for a copy or download of the weights' },
  PROMPT_TOO_LONG: { exitStatus: 7, meaning: 'prompt and new tokens do not fit the model’s context' },
  EMPTY_PROMPT: { exitStatus: 7, meaning: 'the prompt has no tokens and the model has no start token' },
  READ_FAILED: { exitStatus: 8, meaning: 'reading weights or another file failed' },
  FILE_CHANGED: {
    exitStatus: 8,
    meaning: 'a weight file or a file of prompts shrank or changed while it was in use',
  },
  NOT_FINITE: {
    exitStatus: 8,
    meaning:
      'a layer yields values that are no finite numbers: damaged weights, or beyond the range of their type',
  },
  WRITE_FAILED: { exitStatus: 8, meaning: 'an output file or a copy of the weights cannot be written' },
  DOWNLOAD_FAILED: { exitStatus: 8, meaning: 'a model cannot be downloaded, or arrives damaged' },
  QUEUE_FAILED: {
    exitStatus: 8,
    meaning: 'a queue of prompts refuses this program, or has lost what it held',
  },
  NO_DEVICE: { exitStatus: 9, meaning: 'the requested device is not present or not usable' },
  DEVICE_FAILED: { exitStatus: 9, meaning: 'a device failed while it was working' },
  CLOSED: {
    exitStatus: 9,
    meaning: 'an engine was closed before it had done what it was asked for, or is used after that',
  },
  INTERRUPTED: { exitStatus: 130, meaning: 'stopped by Ctrl-C, SIGTERM or SIGHUP' },
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/**
 * Something outside the program is wrong: the message is one sentence with the numbers and what to change.
 * Shown at the command line without a stack trace. Everything else that is thrown is a programming error.
 */
export class OperatingError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(printable(message), options);
    this.name = 'OperatingError';
    this.code = code;
  }
}

const MAX_MESSAGE = 1000;

/** Messages quote files, and control characters of a file must not reach a terminal. Escaped, and cut as a last resort. */
function printable(message: string): string {
  const text = message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE - 1)}…` : message;
  return text.replaceAll(/[^\P{Cc}\n]/gu, (character) => {
    return `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
}

/** For a file that the system does not open: where it allows no further one, the limit is at fault and not the file. */
export function cannotOpen(path: string, error: unknown): OperatingError {
  const text = error instanceof Error ? error.message : String(error);
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'EMFILE' || code === 'ENFILE') {
    const mend = 'raise the limit on open files (ulimit -n 1024)';
    return new OperatingError('SYSTEM_LIMIT', `${path} cannot be opened: ${text}: ${mend}`, { cause: error });
  }
  return new OperatingError('NOT_FOUND', `${path} cannot be opened: ${text}`, { cause: error });
}

/** Programmer errors: always on. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${message}`);
}

/** The value, or a programming error when it is absent. */
export function present<T>(value: T | undefined | null, what: string): T {
  assert(value !== undefined && value !== null, `${what} is absent`);
  return value;
}
