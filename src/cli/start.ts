// The first thing after Node's version was found good: begins early what can be begun, then runs the program.

import { ASKS } from './completion/scripts.js';
import { glance } from './glance.js';

/** @param words the command line without node and script */
export async function start(words: readonly string[]): Promise<void> {
  if (words[0] === ASKS) {
    const { completionLines } = await import('./completion/candidates.js');
    process.stdout.write(await completionLines(words.slice(1)));
    return;
  }
  const glimpsed = glance(words);
  const early = glimpsed && (await import('./early-load.js')).beginEarly(glimpsed);
  const { main } = await import('./main.js');
  await main(words, early);
}
