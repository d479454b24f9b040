#!/usr/bin/env node
// The executable: what can be begun at once is, before anything else is loaded. It imports nothing before it has looked at
// Node's version, because a Node that is too old refuses the modules themselves.

const OLDEST_NODE = 20;
/** As ERROR_CODES has them. */
const UNSUPPORTED_STATUS = 4;
const NOT_FOUND_STATUS = 3;

const { node } = process.versions;
if (Number(node.split('.')[0]) < OLDEST_NODE) {
  process.stderr.write(
    `zero-inference: UNSUPPORTED: Node ${node} is too old: use Node ${OLDEST_NODE} or later (node --version says which one this shell runs)\n`,
  );
  process.exitCode = UNSUPPORTED_STATUS;
} else {
  import('./cli/start.js').then(({ start }) => start(process.argv.slice(2))).catch(sayWhatIsMissing);
}

/** Of a program that was set up in part; whatever else may have gone wrong is shown as it is. */
function sayWhatIsMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
  const [sentence] = error.message.split(' imported from');
  process.stderr.write(`zero-inference: NOT_FOUND: ${sentence}: run \`npm run setup\`\n`);
  process.exitCode = NOT_FOUND_STATUS;
}
