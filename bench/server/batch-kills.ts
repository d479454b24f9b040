// Does every request of a batch get its line exactly once, whenever the process is killed?
//
// node dist/bench/server/batch-kills.js [--requests 2000] [--kills 100] [--seed 1] [--name FOLDER]

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { printResult } from '../common.js';
import { type AfterKills, commandUnderKills, serverUnderKills } from './kill-run.js';

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '2000' },
    kills: { type: 'string', default: '100' },
    seed: { type: 'string', default: '1' },
    name: { type: 'string', default: 'test/fixtures/models/stories260K' },
  },
});

const scratch = mkdtempSync(join(tmpdir(), 'zero-inference-kills-'));
let isSound = true;
try {
  for (const [name, run] of [
    ['batch', commandUnderKills],
    ['serve', serverUnderKills],
  ] as const) {
    const folder = join(scratch, name);
    mkdirSync(folder);
    const options = { model: values.name, folder, requests: Number(values.requests) };
    const found = await run({ ...options, kills: Number(values.kills), seed: Number(values.seed) });
    printResult(`${name}-kills`, sentence(found), { ...options, ...found });
    isSound &&= found.lines === options.requests && found.lost.length + found.wrong.length === 0;
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
if (!isSound) process.exitCode = 1;

function sentence({ killed, lines, lost, doubled, wrong }: AfterKills): string {
  const kinds = `${killed.anytime} at any time, ${killed.before} before a line, ${killed.within} within one, ${killed.behind} behind one`;
  return `killed ${kinds}: ${lines} lines, ${lost.length} lost, ${doubled.length} doubled, ${wrong.length} wrong`;
}
