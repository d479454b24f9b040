// Does any of a million mutated requests crash the server, hang it, or get anything but an answer or a refusal?
//
// node dist/bench/server/mutations.js [--requests 1000000] [--first 0] [--parallel 16] [--minutes 60]

import { cpSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { printResult } from '../common.js';
import { runMutations } from './mutation-run.js';
import { openService } from './opened.js';

const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: '1000000' },
    first: { type: 'string', default: '0' },
    parallel: { type: 'string', default: '16' },
    minutes: { type: 'string', default: '60' },
  },
});
const folder = mkdtempSync(join(tmpdir(), 'zi-mutations-'));
cpSync('test/fixtures/models/shakespeare-bloom', folder, { recursive: true });
writeFileSync(join(folder, 'chat_template.jinja'), '{% for m in messages %}{{ m.content }}{% endfor %}');
// Texts whose length nobody says are as long as there is room.
const service = await openService(folder, { sequences: 64, contextTokens: 32 });
const startMs = performance.now();
const range = {
  first: Number(values.first),
  count: Number(values.requests),
  parallel: Number(values.parallel),
  mostMs: Number(values.minutes) * 60e3,
  onProgress: (done: number) => {
    if (done % 10_000 !== 0) return;
    const rate = done / ((performance.now() - startMs) / 1e3);
    const mib = Math.round(process.memoryUsage.rss() / 2 ** 20);
    console.error(`${done} requests, ${rate.toFixed(0)} a second, ${mib} MiB`);
  },
};
const { requests, statuses, failures } = await runMutations(service.address, range);
await service.engine.whenIdle();
const seconds = (performance.now() - startMs) / 1e3;
const line = `${requests} requests, ${failures.length} failures, ${service.faults.length} faults of the server`;
printResult('server-mutations', line, {
  requests,
  seconds,
  statuses,
  failures,
  faults: service.faults,
  memory_mib: Math.round(process.memoryUsage.rss() / 2 ** 20),
});
await service.close();
process.exitCode = failures.length + service.faults.length > 0 ? 1 : 0;
