// Do texts that are bound to a schema obey it, every one of them, and how much slower are they made than free ones of the
// same lengths?
//
// node dist/bench/structured.js [--requests 1000] [--batch 32] [--rounds 3] [--name FOLDER] [--device cpu|cuda] [--threads 2]

import { parseArgs } from 'node:util';
import { median, printResult } from './common.js';
import { openBound } from './structured-run.js';

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '1000' },
    batch: { type: 'string', default: '32' },
    rounds: { type: 'string', default: '3' },
    name: { type: 'string', default: 'test/fixtures/models/shakespeare-bloom' },
    device: { type: 'string', default: 'cpu' },
    threads: { type: 'string', default: '2' },
  },
});

const run = await openBound({
  folder: values.name,
  batch: Number(values.batch),
  device: values.device === 'cuda' ? 'cuda' : 'cpu',
  threads: Number(values.threads),
});
try {
  const requests = Number(values.requests);
  const each = Math.max(1, Math.ceil(requests / Number(values.rounds)));
  // What is loaded at the first use is not what a token costs.
  const { newTokens: warm } = await run.bound(Number(values.batch), 0);
  await run.free(warm, 0);
  const shares: number[] = [];
  let [valid, texts] = [0, 0];
  for (let first = 0; first < requests; first += each) {
    const count = Math.min(each, requests - first);
    const bound = await run.bound(count, first);
    const free = await run.free(bound.newTokens, first);
    shares.push(bound.tokensPerSecond / free.tokensPerSecond);
    for (const [at, obeys] of bound.obeys.entries()) {
      if (!obeys) process.stderr.write(`text ${first + at} does not: ${JSON.stringify(bound.texts[at])}\n`);
    }
    valid += bound.obeys.filter(Boolean).length;
    texts += count;
    process.stderr.write(
      `${first + count}: ${bound.tokensPerSecond.toFixed(0)} of ${free.tokensPerSecond.toFixed(0)} tokens/s, ` +
        `the event loop stood still for ${bound.longestPauseMs.toFixed(0)} ms at most\n`,
    );
  }
  const share = median(shares);
  printResult(
    'structured',
    `${valid} of ${texts} texts obey their schema, at ${(100 * share).toFixed(1)} % of the tokens/s of free ones`,
    { texts, valid, share, shares },
  );
} finally {
  await run.close();
}
