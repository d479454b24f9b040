#!/usr/bin/env node
// The executable: what can be begun at once is, before anything else is loaded. It imports nothing before it has looked at
// Node's version, because a Node that is too old refuses the modules themselves.

const OLDEST_NODE = 20;
/** As ERROR_CODES has them. */
const UNSUPPORTED_STATUS = 4;
const NOT_FOUND_STATUS = 3;
const SYSTEM_LIMIT_STATUS = 6;

const { node } = process.versions;
if (Number(node.split('.')[0]) < OLDEST_NODE) {
  say(
    `UNSUPPORTED: Node ${node} is too old: use Node ${OLDEST_NODE} or later (node --version says which one this shell runs)`,
  );
  process.exitCode = UNSUPPORTED_STATUS;
} else {
  import('./cli/start.js').then(({ start }) => start(process.argv.slice(2))).catch(sayWhatIsMissing);
}

/** Says what is missing where the program was set up in part or may not open its own files; other errors are shown as they are. */
async function sayWhatIsMissing(error: NodeJS.ErrnoException): Promise<void> {
  const [sentence = ''] = error.message.split(' imported from');
  // Where Node cannot read what a package says, it guesses what to load of it.
  const named = /package '(\/[^']+)\/[^'/]+'|'(\/[^']+)'/.exec(sentence);
  const path = named ? named[1] || named[2] || '' : '';
  const { existsSync } = await import('node:fs');
  // Where no file can be opened any more, Node says that there is none.
  if (error.code === 'EMFILE' || existsSync(path)) {
    say(
      `SYSTEM_LIMIT: ${path} cannot be opened beside the others: raise the limit on open files (ulimit -n 1024)`,
    );
    process.exitCode = SYSTEM_LIMIT_STATUS;
    return;
  }
  if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
  say(
    `NOT_FOUND: ${sentence}: run \`npm run setup\` in a clone, or \`npm install\` in a project that has it`,
  );
  process.exitCode = NOT_FOUND_STATUS;
}

function say(sentence: string): void {
  process.stderr.write(`zero-inference: ${sentence}\n`);
}
