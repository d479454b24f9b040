// A sample of bench/fault-injection.ts: what the system refuses ends in one sentence with a code, or in the same result;
// and a limit of processes, as containers have it, never in a crash.

import { spawnSync } from 'node:child_process';
import { mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { type Ended, faultsOf, run } from '../../bench/faults/run.js';
import { SCENARIOS } from '../../bench/faults/scenarios.js';
import { present } from '../../offload/index.js';
import { modelFolder } from '../helpers/fixtures.js';
import { HANG_MS } from '../helpers/hang.js';

const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));

const SAMPLE: Readonly<Record<string, readonly string[]>> = {
  'from the drive': [
    ...[
      'thread:1',
      'thread:2',
      'map:1',
      'directOpen:1',
      'stat:1',
      'ring:1',
      'eventFd:1',
      'submit:3',
      'await:2',
    ],
    ...['completion:2', 'read:1', 'read:4', 'shortRead:2', 'scratch:1'],
  ].map((point) => `native.${point}`),
  'results to a file, with report and trace': [
    ...['native.read:3', 'fs.openSync:1', 'fs.writeSync:2', 'fs.renameSync:1', 'fs.short writeSync:1'],
  ],
};

describe.each(Object.entries(SAMPLE))('a run %s', (name, faults) => {
  const scenario = present(
    SCENARIOS.find((one) => one.name === name),
    name,
  );
  let reference: Ended;

  beforeAll(async () => {
    reference = await run(scenario, undefined);
    expect(reference).toMatchObject({ status: 0, struck: false });
    expect(faultsOf(reference, reference, scenario)).toEqual([]);
  });

  it.each(faults)('in which %s fails', async (fault) => {
    const ended = await run(scenario, fault);
    expect(ended.struck || fault.startsWith('native.')).toBe(true);
    expect(ended.counts[fault.slice(0, fault.lastIndexOf(':'))]).toBeGreaterThan(0);
    expect(faultsOf(ended, reference, scenario)).toEqual([]);
  });
});

const GROUP = '/sys/fs/cgroup/pids/zi-test-limit';

/** Whether this user may limit processes, in version 1 of control groups. */
function mayLimit(): boolean {
  try {
    mkdirSync(GROUP);
    rmdirSync(GROUP);
    return true;
  } catch {
    return false;
  }
}

describe.skipIf(!mayLimit())('a limit of processes', () => {
  const words = [
    '--name',
    modelFolder('bloom'),
    '--prompt',
    'ab',
    '--max_new_tokens',
    '3',
    '--threads',
    '64',
  ];

  it('ends in a sentence, or in the same text by fewer threads', () => {
    mkdirSync(GROUP);
    try {
      const ends = new Set<number | null>();
      // The first few leave too little for Node itself, which then ends with its own words.
      const limits: readonly [number, ...string[]][] = [
        [13],
        [14],
        [16],
        [18, '--io_engine', 'threads'],
        [24],
      ];
      for (const [limit, ...more] of limits) {
        writeFileSync(`${GROUP}/pids.max`, String(limit));
        const inGroup = `echo $$ > ${GROUP}/cgroup.procs && exec "$@"`;
        const { status, signal, stderr, stdout } = spawnSync(
          'bash',
          [
            '-c',
            inGroup,
            'bash',
            process.execPath,
            MAIN,
            ...words,
            ...more,
            '--device',
            'cpu',
            '--log_level',
            'silent',
          ],
          { encoding: 'utf8', timeout: HANG_MS },
        );
        expect(signal).toBeNull();
        if (status === 0) expect(stdout.length).toBeGreaterThan(2);
        else expect(stderr).toMatch(/^zero-inference: SYSTEM_LIMIT: [^\n]*\n$/);
        ends.add(status);
      }
      expect(ends.has(0)).toBe(true);
    } finally {
      rmdirSync(GROUP);
    }
  });
});

describe('doctor', () => {
  const preload = fileURLToPath(new URL('../../dist/bench/faults/preload.js', import.meta.url));

  it.each([
    ['native.map:1', /^zero-inference: DOES_NOT_FIT: 64\.0 MiB of memory cannot be allocated[^\n]*\n$/],
    [
      'native.scratch:1',
      /^zero-inference: DEVICE_FAILED: a device failed: [^\n]*scratch cannot be allocated\n$/,
    ],
  ])('without %s ends with a sentence', (fault, sentence) => {
    const { stderr, status } = spawnSync(process.execPath, ['--import', preload, MAIN, 'doctor', '--json'], {
      encoding: 'utf8',
      timeout: HANG_MS,
      env: { ...process.env, ZI_FAULT: fault },
    });
    // On a busy machine it says now and then how far it is.
    expect(stderr.replaceAll(/^\{.*\}\n/gm, '')).toMatch(sentence);
    expect([6, 9]).toContain(status);
  });
});
