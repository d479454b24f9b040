// The same from CommonJS: by `require` where Node allows it, else by `import()`.

const [folder] = process.argv.slice(2);

async function library() {
  try {
    return require('zero-inference');
  } catch (error) {
    if (error.code !== 'ERR_REQUIRE_ESM') throw error;
    return import('zero-inference');
  }
}

async function main() {
  const { open } = await library();
  const engine = await open(folder, { device: 'cpu', contextTokens: 128, maxSequences: 1 });
  const { text, tokens } = await engine.generate('KING RICHARD III:', { maxNewTokens: 12 }).result;
  console.log(JSON.stringify({ text, tokens, node: process.version }));
  // Left open: the process ends all the same.
}

main();
