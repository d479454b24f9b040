// What the doctor says of machines that lack something, and what it advises.

import { describe, expect, it } from 'vitest';
import { cpuBenchSizes } from '../../offload/measure/bench-sizes.js';
import { lastCacheBytes, measuredReadBytes, tightestGroup } from '../../offload/measure/hardware.js';
import { checkInstructions } from '../../offload/measure/probe.js';
import {
  checkCuda,
  checkDirect,
  checkHugePages,
  checkInstructionSets,
  checkIoUring,
  checkMemory,
  checkRegistration,
  type System,
} from '../../src/doctor/checks.js';
import { unusableGpu } from '../../src/doctor/doctor.js';

function system(files: Readonly<Record<string, string>>): System {
  return { readText: (path) => files[path], exists: (path) => path in files };
}

const NO_RING = {
  engine: 'threads',
  engineNote: 'no',
  registered: false,
  registrationNote: undefined,
} as const;
const RING = {
  engine: 'io_uring',
  engineNote: undefined,
  registered: true,
  registrationNote: undefined,
} as const;

describe('io_uring', () => {
  it('works', () => {
    expect(checkIoUring(RING, '6.1.0', system({}))).toMatchObject({ state: 'good' });
  });

  it('is switched off by the kernel', () => {
    const found = checkIoUring(NO_RING, '6.6.0', system({ '/proc/sys/kernel/io_uring_disabled': '2\n' }));
    expect(found.finding).toContain('kernel.io_uring_disabled is 2');
    expect(found.mend).toContain('sysctl -w kernel.io_uring_disabled=0');
  });

  it('is forbidden by a container', () => {
    const found = checkIoUring(
      NO_RING,
      '6.6.0',
      system({ '/proc/self/status': 'Name:\tnode\nSeccomp:\t2\n' }),
    );
    expect(found.finding).toContain('seccomp');
    expect(found.mend).toContain('--security-opt');
  });

  it('is too new for the kernel', () => {
    expect(checkIoUring(NO_RING, '4.19.0-amd64', system({})).finding).toContain('too old');
  });
});

describe('locked memory', () => {
  const limits = (soft: string, hard: string) => ({
    '/proc/self/limits': `Max locked memory         ${soft}              ${hard}              bytes`,
  });
  const user = { isRoot: false, userName: 'ada', isService: false };
  const refused = { ...RING, registered: false, registrationNote: 'refused (ENOMEM)' };
  const mend = (files: Record<string, string>, standing: Partial<typeof user> = {}) =>
    checkRegistration(refused, system(files), { ...user, ...standing }).mend;
  const small = limits('8388608', '8388608');

  it('says the limit', () => {
    expect(checkRegistration(RING, system(small), user).finding).toContain('limit 8.00 MiB');
    expect(checkRegistration(refused, system(small), user)).toMatchObject({ state: 'limited' });
  });

  it('is raised where this process may, which depends on who it is', () => {
    expect(mend(limits('8388608', 'unlimited'))).toMatch(/^ulimit -l unlimited in this shell/);
    expect(mend(small)).toMatch(/“ada - memlock unlimited” into \/etc\/security\/limits.d\/.*log in again/);
    expect(mend(small, { isRoot: true })).toMatch(/^ulimit -l unlimited .*root may/);
    expect(mend(small, { isService: true })).toMatch(/^LimitMEMLOCK=infinity in the \[Service\] section/);
    expect(mend({ ...small, '/.dockerenv': '' }, { isRoot: true })).toContain(
      'docker run --ulimit memlock=-1:-1',
    );
  });

  it('is not blamed where there is no limit', () => {
    expect(mend(limits('unlimited', 'unlimited'))).toMatch(/^the limit is not what forbids it/);
  });
});

it('huge pages', () => {
  const path = '/sys/kernel/mm/transparent_hugepage/enabled';
  expect(checkHugePages(system({ [path]: 'always [madvise] never' })).state).toBe('good');
  expect(checkHugePages(system({ [path]: 'always madvise [never]' })).mend).toContain('echo madvise');
  expect(checkHugePages(system({})).state).toBe('unknown');
});

it('without instruction sets nothing is computed', () => {
  expect(() => checkInstructions([])).toThrow(/has no AVX2, FMA and F16C, .*-cpu host/);
  expect(() => checkInstructions(['avx2'])).not.toThrow();
});

it('instruction sets', () => {
  expect(checkInstructionSets([]).state).toBe('absent');
  expect(checkInstructionSets(['avx2']).state).toBe('limited');
  expect(checkInstructionSets(['avx2', 'avx512']).state).toBe('good');
});

it('O_DIRECT says where it is refused', () => {
  expect(checkDirect('/tmp', false, undefined)).toMatchObject({ state: 'limited' });
});

describe('CUDA', () => {
  const driver = {
    '/proc/driver/nvidia/version': 'NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27',
  };

  it('lacks a driver, a device or a library, in that order', () => {
    expect(checkCuda(system({}), undefined).finding).toContain('no NVIDIA driver');
    expect(checkCuda(system(driver), undefined).mend).toContain('--gpus all');
    expect(checkCuda(system({ ...driver, '/dev/nvidia0': '' }), undefined).finding).toContain('libcuda.so.1');
    expect(checkCuda(system({ ...driver, '/dev/nvidia3': '' }), undefined).finding).toContain('libcuda.so.1');
  });

  it('finds the library where the loader is told to look', () => {
    const files = { ...driver, '/dev/nvidia0': '', '/opt/cuda/libcuda.so.1': '' };
    expect(checkCuda(system(files), '/opt/cuda')).toMatchObject({ state: 'good' });
    expect(checkCuda(system(files), '/opt/cuda').finding).toContain('580.65.06');
  });
});

describe('memory', () => {
  it('is what the tightest control group around the process leaves', () => {
    const files: Readonly<Record<string, string>> = {
      '/proc/self/cgroup': '0::/outer/inner\n',
      '/sys/fs/cgroup/outer/memory.max': '1000000\n',
      '/sys/fs/cgroup/outer/memory.current': '900000\n',
      '/sys/fs/cgroup/outer/memory.stat': 'anon 1\ninactive_file 300000\n',
      '/sys/fs/cgroup/outer/inner/memory.max': 'max\n',
      '/sys/fs/cgroup/outer/inner/memory.current': '5\n',
    };
    expect(tightestGroup((path) => files[path])).toEqual({ limitBytes: 1000000, leftBytes: 400000 });
  });

  it('of version 1 groups counts what lies below them', () => {
    const files: Readonly<Record<string, string>> = {
      '/proc/self/cgroup': '5:memory:/docker/abc\n0::/\n',
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': '500000',
      '/sys/fs/cgroup/memory/memory.usage_in_bytes': '200000',
      '/sys/fs/cgroup/memory/memory.stat': 'inactive_file 1\ntotal_inactive_file 50000\n',
    };
    expect(tightestGroup((path) => files[path])).toEqual({ limitBytes: 500000, leftBytes: 350000 });
  });

  it('has no limit where no group sets one', () => {
    const unlimited: Readonly<Record<string, string>> = {
      '/proc/self/cgroup': '4:memory:/\n',
      '/sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712',
      '/sys/fs/cgroup/memory/memory.usage_in_bytes': '1',
    };
    expect(tightestGroup((path) => unlimited[path])).toBeUndefined();
    expect(
      checkMemory({ dramAvailableBytes: 2 ** 30, limitBytes: undefined, totalBytes: 2 ** 34 }).state,
    ).toBe('good');
    expect(
      checkMemory({ dramAvailableBytes: 2 ** 30, limitBytes: 2 ** 31, totalBytes: 2 ** 31 }).mend,
    ).toContain('--memory');
  });
});

describe('what is measured with', () => {
  const MiB = 2 ** 20;

  it('is more than the last caches hold, where there is memory for it', () => {
    const cpu = (number: number, index: number, level: number, size: string, shared: string) => {
      const folder = `/sys/devices/system/cpu/cpu${number}/cache/index${index}`;
      return {
        [`${folder}/level`]: `${level}\n`,
        [`${folder}/size`]: `${size}\n`,
        [`${folder}/shared_cpu_list`]: `${shared}\n`,
      };
    };
    const files: Record<string, string> = {
      ...cpu(0, 0, 1, '32K', '0'),
      ...cpu(0, 1, 3, '32768K', '0-1'),
      ...cpu(1, 0, 3, '32768K', '0-1'),
      ...cpu(2, 0, 3, '96M', '2'),
    };
    expect(lastCacheBytes((path) => files[path])).toBe(128 * MiB);
    expect(lastCacheBytes(() => undefined)).toBe(0);
    expect(cpuBenchSizes(64 * 1024 * MiB, 200 * MiB).coldBytes).toBe(400 * MiB);
    expect(cpuBenchSizes(64 * 1024 * MiB, 4096 * MiB).coldBytes).toBe(512 * MiB);
    expect(cpuBenchSizes(64 * 1024 * MiB, 8 * MiB).coldBytes).toBe(160 * MiB);
    expect(cpuBenchSizes(1024 * MiB, 480 * MiB).coldBytes).toBe(256 * MiB);
    const much = 512 * 1024 * MiB;
    expect(measuredReadBytes(2, 32 * MiB, much)).toBe(512 * MiB);
    expect(measuredReadBytes(1, 480 * MiB, much)).toBe(480 * MiB);
    expect(measuredReadBytes(128, 480 * MiB, much)).toBe(4096 * MiB);
    expect(measuredReadBytes(16, 480 * MiB, 200 * MiB)).toBe(50 * MiB);
  });

  it('fits beside Node into 200 MiB', () => {
    const { coldBytes, scratchBytes } = cpuBenchSizes(110 * MiB, 480 * MiB);
    expect(coldBytes + scratchBytes).toBeLessThanOrEqual(80 * MiB);
  });
});

it('a GPU that cannot be used is told of, with why', () => {
  const problem = 'Tesla T4 has compute capability 7.5, but 8.0 (Ampere) or later is needed';
  const { state, finding } = unusableGpu({ problem, present: true, products: '', devices: [] });
  expect([state, finding]).toEqual(['absent', expect.stringContaining(problem)]);
});
