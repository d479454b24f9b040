// What a fresh project does with the installed package: `node use.mjs MODEL_FOLDER` prints a line of JSON, or fails.

import assert from 'node:assert/strict';
import * as library from 'zero-inference';

const [folder] = process.argv.slice(2);
assert.deepEqual(Object.keys(library).sort(), ['ERROR_CODES', 'OperatingError', 'open']);
// Nothing else of the package can be imported.
await assert.rejects(import('zero-inference/dist/src/cli/main.js'), { code: 'ERR_PACKAGE_PATH_NOT_EXPORTED' });

const engine = await library.open(folder, { device: 'cpu', contextTokens: 128, maxSequences: 2 });
const pieces = [];
const text = engine.generate('KING RICHARD III:', { maxNewTokens: 12, logProbs: true });
for await (const piece of text) pieces.push(piece.text);
const result = await text.result;
assert.equal(pieces.join(''), result.text);
assert.equal(result.logProbs.length, result.tokens.length);
await assert.rejects(engine.generate('a', { maxNewTokens: -1 }).result, (error) => {
  return error instanceof library.OperatingError && error.code in library.ERROR_CODES;
});
await engine.close();
console.log(JSON.stringify({ text: result.text, tokens: result.tokens, node: process.version }));
