// Where the system refuses threads or memory: fewer threads, or an error with a code; never the end of the process.

import { readFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { usableProcessors } from '../../offload/backends/processors.js';
import { CpuBackend } from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import type { FaultPoint } from '../../offload/port/native-addon.js';
import type { Op, Tensor } from '../../offload/port/ops.js';
import { denseWeight } from '../../offload/port/weights.js';
import { HANG_MS } from '../helpers/hang.js';
import { allocate, batch, failure, makeFile, makeIo, readWhole, useIo } from './io-helpers.js';
import { TestMemory } from './tensor-bytes.js';

useIo();

const never = (point: FaultPoint) => native().injectFault({ point, nth: 0 });
const always = (point: FaultPoint) => native().injectFault({ point, nth: 1, times: 1e6 });

afterEach(() => {
  never('thread');
  native().configureCpu({ threads: 0 });
});

/** Signals that the thread of this process which runs JavaScript blocks. */
const blockedSignals = () => /^SigBlk:\s*(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];

/** A product large enough for every thread, of ones: each result is the number of inputs. */
function product(): { memory: TestMemory; op: Op; out: Tensor } {
  const [tokens, outputs, inputs] = [32, 256, 300];
  const memory = new TestMemory(4 << 20);
  const ones = (shape: readonly number[]) => memory.fill(memory.tensor('f32', shape), () => 1);
  const out = memory.tensor('f32', [tokens, outputs]);
  const [x, weight] = [ones([tokens, inputs]), ones([outputs, inputs])];
  const how = { bias: null, activation: 'none', accumulate: false } as const;
  return { memory, op: { op: 'linear', out, x, weight: denseWeight(weight), ...how }, out };
}

async function multiply(): Promise<void> {
  const { memory, op, out } = product();
  const stream = native().createStream('product');
  stream.launch(encodeOp(op));
  try {
    await stream.record().promise();
    expect(new Set(memory.read(out))).toEqual(new Set([300]));
  } finally {
    stream.close();
    memory.free();
  }
}

describe('loops of many streams', () => {
  it('are run whole, more at once than find helpers', async () => {
    native().configureCpu({ threads: 4 });
    const streams = Array.from({ length: 24 }, (_, index) => {
      const stream = native().createStream(`loop ${index}`);
      return { stream, ...product() };
    });
    for (let round = 0; round < 4; round++) {
      for (const { stream, op } of streams) stream.launch(encodeOp(op));
    }
    await Promise.all(streams.map(({ stream }) => stream.record().promise()));
    for (const { stream, memory, out } of streams) {
      expect(new Set(memory.read(out))).toEqual(new Set([300]));
      stream.close();
      memory.free();
    }
  });
});

describe('threads that cannot start', () => {
  it.each([1, 3, 6])('the pool does with fewer from the %i. on, and says so', async (nth) => {
    native().injectFault({ point: 'thread', nth, times: 1e6 });
    const refusal = native().configureCpu({ threads: 8 });
    expect(refusal).toMatch(/refused a thread .* of this process: raise the limit of processes/);
    never('thread');
    await multiply();
    expect(native().configureCpu({ threads: 3 })).toBe('');
    await multiply();
  });

  it('a stream without one is an error with a code, and what was opened before goes on', async () => {
    always('thread');
    expect(() => native().createStream('refused')).toThrow(
      expect.objectContaining({ code: 'SYSTEM_LIMIT', name: 'OperatingError' }),
    );
    never('thread');
    await multiply();
  });

  it.each(['io_uring', 'threads'] as const)(
    'a reader by %s without one is an error with a code',
    (engine) => {
      always('thread');
      expect(() => makeIo({ engine })).toThrow(expect.objectContaining({ code: 'SYSTEM_LIMIT' }));
    },
  );

  it('a reader by threads does with one, and says so', async () => {
    // The sixth of those that are counted beforehand: all but one are left to others.
    native().injectFault({ point: 'thread', nth: 6 });
    const io = makeIo({ engine: 'threads' });
    expect(io.notes).toEqual([expect.stringMatching(/^files are read by 1 threads/)]);
    never('thread');
    await readWhole(io, makeFile(300_001));
  });

  it('a backend of several devices opens all of its streams or none', async () => {
    never('thread');
    const before = threadsNow();
    for (let nth = 1; nth <= 11; nth++) {
      native().injectFault({ point: 'thread', nth, times: 1e6 });
      expect(() => new CpuBackend({ virtualDevices: 2, threads: 1 })).toThrow(
        expect.objectContaining({ code: 'SYSTEM_LIMIT' }),
      );
    }
    never('thread');
    await expect.poll(threadsNow, { timeout: HANG_MS }).toBeLessThanOrEqual(before);
  });

  it('touching pages needs none', () => {
    always('thread');
    const memory = new (native().NativeMemory)(9 << 20, false);
    memory.populate(4);
    memory.populateSoon();
    expect(new Uint8Array(memory.view(0, 9 << 20)).every((byte) => byte === 0)).toBe(true);
    memory.free();
  });

  it('leaves no signal blocked', () => {
    const before = blockedSignals();
    expect(before).toMatch(/^[0-9a-f]+$/);
    always('thread');
    expect(() => native().createStream('refused')).toThrow();
    native().configureCpu({ threads: 4 });
    never('thread');
    native().createStream('started').close();
    expect(blockedSignals()).toBe(before);
  });

  it('can be counted beforehand', () => {
    never('thread');
    expect(native().startableThreads(5)).toBe(5);
    native().injectFault({ point: 'thread', nth: 4, times: 1e6 });
    expect(native().startableThreads(5)).toBe(3);
  });
});

/** How many threads this process has. */
const threadsNow = () => Number(/^Threads:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);

describe('numbers of threads', () => {
  it('are at most the cores, with a note', async () => {
    const { cores } = usableProcessors();
    const before = threadsNow();
    const backend = new CpuBackend({ threads: 100_000 });
    expect(threadsNow() - before).toBeLessThan(cores + 10);
    expect(backend.notes).toContainEqual(
      expect.stringMatching(/^100000 threads were to compute, but .* cores/),
    );
    await backend.close();
  });

  const files = (texts: Readonly<Record<string, string>>) => (path: string) => texts[path];

  it.each([
    ['no quota', { '/sys/fs/cgroup/cpu.max': 'max 100000\n' }, 8],
    ['half a core', { '/sys/fs/cgroup/a/cpu.max': '50000 100000\n' }, 1],
    ['a core and a half', { '/sys/fs/cgroup/a/b/cpu.max': '150000 100000\n' }, 2],
    [
      'a group above that has less',
      { '/sys/fs/cgroup/a/cpu.max': '300000 100000', '/sys/fs/cgroup/a/b/cpu.max': '700000 100000' },
      3,
    ],
    ['more than there are cores', { '/sys/fs/cgroup/a/cpu.max': '1600000 100000\n' }, 8],
  ])('follow cpu.max: %s', (_, texts, threads) => {
    const read = files({ '/proc/self/cgroup': '0::/a/b\n', ...texts });
    expect(usableProcessors(read, 8).threads).toBe(threads);
  });

  it.each([
    ['-1', undefined, 8],
    ['250000', 2.5, 3],
    ['1000', 0.01, 1],
  ])('follow the quota of version 1: %s', (quota, quotaCores, threads) => {
    const read = files({
      '/proc/self/cgroup': '4:memory:/x\n2:cpu,cpuacct:/y\n0::/\n',
      '/sys/fs/cgroup/cpu/y/cpu.cfs_quota_us': `${quota}\n`,
      '/sys/fs/cgroup/cpu/y/cpu.cfs_period_us': '100000\n',
    });
    expect(usableProcessors(read, 8)).toEqual({ cores: 8, quotaCores, threads });
  });
});

describe('memory that is refused', () => {
  it('host memory says how much, with a code', () => {
    native().injectFault({ point: 'map', nth: 1 });
    const backend = new CpuBackend({ threads: 1 });
    expect(() => backend.allocateHost(1 << 20, 'stream')).toThrow(
      expect.objectContaining({ code: 'DOES_NOT_FIT', message: expect.stringContaining('1.00 MiB') }),
    );
    return backend.close();
  });

  it('scratch of a kernel fails its stream, wherever a thread needs it, and no other', async () => {
    native().configureCpu({ threads: 3 });
    for (let nth = 1; nth <= 2; nth++) {
      native().injectFault({ point: 'scratch', nth });
      // Threads of a new pool have no scratch yet.
      native().configureCpu({ threads: 3 + nth });
      await expect(multiply()).rejects.toThrow(/linear: \d+ bytes of scratch cannot be allocated/);
      await multiply();
    }
  });
});

describe('a ring that breaks', () => {
  it.each([
    ['submit', 'EBADFD'],
    ['await', 'EBADFD'],
  ] as const)('at %s fails what is read and all that comes, and closes', async (point, errnoName) => {
    const data = makeFile(200_000);
    const { memory } = allocate(204_800);
    // What comes later may come at any moment between two looks of a broken ring.
    for (let round = 0; round < 60; round++) {
      const io = makeIo({ engine: 'io_uring' });
      await readWhole(io, data);
      const file = io.open(data.path);
      const read = () => io.read(batch([file.file, 0, 204_800, 200_000, memory.id, 0]));
      native().injectFault({ point, nth: 1 });
      const outcomes = [await failure(read()), await failure(read())];
      for (const outcome of outcomes) expect(outcome).toMatchObject({ errnoName, file: file.file });
      await io.close();
    }
  });

  it('for a moment only delays what is read', async () => {
    const io = makeIo({ engine: 'io_uring' });
    const { EAGAIN, EBUSY, EINTR } = (await import('node:os')).constants.errno;
    for (const errno of [EAGAIN, EBUSY, EINTR]) {
      for (const point of ['submit', 'await'] as const) {
        native().injectFault({ point, nth: 1, times: 5, errno });
        await readWhole(io, makeFile(300_001));
      }
    }
  });

  it('by cancelling what it cannot run makes its thread read by itself', async () => {
    const io = makeIo({ engine: 'io_uring' });
    native().injectFault({ point: 'completion', nth: 1, times: 3 });
    await readWhole(io, makeFile(300_001));
    expect(native().passedFaultPoints().completion).toBeGreaterThan(3);
  });
});
