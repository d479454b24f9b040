// `completion`: prints what a shell is to read.

import type { CommandContext } from '../context.js';
import { badOption } from '../options/option-reader.js';
import { SHELLS } from '../options/tables/completion.js';
import { completionScript, userShell } from './scripts.js';

/** @param words the shell, or nothing for that of the environment */
export function runCompletion(words: readonly string[], { write }: Pick<CommandContext, 'write'>): void {
  const [name, extra] = words;
  const shell = name === undefined ? userShell(process.env) : SHELLS.find((one) => one === name);
  if (shell === undefined)
    throw badOption(`there is no completion for '${name}': give one of ${SHELLS.join(', ')}`);
  if (extra !== undefined)
    throw badOption(`'${extra}' is one shell too many: give one of ${SHELLS.join(', ')}`);
  write(completionScript(shell));
}
