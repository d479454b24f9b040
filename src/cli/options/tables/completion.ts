// Options of `completion`: none but how much is logged.

import { LOG_LEVEL } from './log-level.js';
import type { OptionTable } from './spec.js';

/** Those that completions are written for. */
export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

export const COMPLETION_OPTIONS = { log_level: LOG_LEVEL } as const satisfies OptionTable;

export const COMPLETION_EXAMPLES = [
  ['eval "$(zero-inference completion bash)"', 'in this shell; in ~/.bashrc, in all'],
  ['eval "$(zero-inference completion zsh)"', 'in ~/.zshrc, after compinit'],
  ['zero-inference completion fish > ~/.config/fish/completions/zero-inference.fish', 'for fish'],
] as const;
