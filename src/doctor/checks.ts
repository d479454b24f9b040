// What each part of a machine allows, and how to mend what it does not: one function per topic, from facts alone.

import { counted, formatBytes, type Hardware, type IoProbe, type NumaTopology } from '../../offload/index.js';

export interface Finding {
  readonly topic: string;
  /** `limited`: it works, at some loss. */
  readonly state: 'good' | 'limited' | 'absent' | 'unknown';
  readonly finding: string;
  readonly mend?: string;
}

/** The system's own files. */
export interface System {
  /** Undefined where there is no such file. */
  readonly readText: (path: string) => string | undefined;
  readonly exists: (path: string) => boolean;
}

/** @param coresOnline of the machine; @param coresUsable by this process */
export function checkProcessor(name: string, coresOnline: number, coresUsable: number): Finding {
  const limited = coresUsable < coresOnline;
  return {
    topic: 'processor',
    state: limited ? 'limited' : 'good',
    finding: `${name}, ${coresUsable}${limited ? ` of ${coresOnline}` : ''} cores may be used`,
    ...(limited
      ? { mend: 'lift the CPU affinity or quota of this process (taskset, docker run --cpus)' }
      : {}),
  };
}

/** @param sets as the kernels name them, best last */
export function checkInstructionSets(sets: readonly string[]): Finding {
  const best = sets.at(-1);
  if (best === undefined) {
    return {
      topic: 'instruction sets',
      state: 'absent',
      finding: 'the processor, or the virtual machine, has no AVX2, FMA and F16C, which the kernels need',
      mend: 'use a processor of 2013 or later; in a virtual machine pass the host’s processor through (-cpu host)',
    };
  }
  return {
    topic: 'instruction sets',
    state: best === 'avx2' ? 'limited' : 'good',
    finding: best === 'avx2' ? 'avx2; AVX-512 would about double arithmetic' : sets.join(', '),
  };
}

export function checkMemory({ dramAvailableBytes, limitBytes }: Hardware): Finding {
  const limit =
    limitBytes === undefined ? '' : `, under a limit of ${formatBytes(limitBytes)} for this process’s group`;
  return {
    topic: 'memory',
    state: limitBytes === undefined ? 'good' : 'limited',
    finding: `${formatBytes(dramAvailableBytes)} may be taken${limit}`,
    ...(limitBytes === undefined
      ? {}
      : { mend: 'raise the limit of the control group (docker run --memory, systemd MemoryMax)' }),
  };
}

/** Undefined where all memory is as near. */
export function checkNodes({ nodes, gpuNodes }: NumaTopology): Finding | undefined {
  if (nodes.length < 2) return undefined;
  const each = nodes.map(
    ({ id, processors, hasMemory }) =>
      `node ${id} with ${counted(processors.length, 'core')}${hasMemory ? '' : ' and no memory for this process'}`,
  );
  const gpus = gpuNodes.length > 0 ? `; GPUs are near node ${gpuNodes.join(' and ')}` : '';
  const isLimited = nodes.some(({ hasMemory, processors }) => !hasMemory && processors.length > 0);
  return {
    topic: 'memory nodes',
    state: isLimited ? 'limited' : 'good',
    finding: `${each.join(', ')}${gpus}: weights in DRAM lie on all of them in turns, threads are spread over them`,
    ...(isLimited ? { mend: 'let the process use the memory of all nodes (cpuset.mems, numactl)' } : {}),
  };
}

export function checkHugePages(system: System): Finding {
  const text = system.readText('/sys/kernel/mm/transparent_hugepage/enabled');
  const mode = /\[(\w+)\]/.exec(text ?? '')?.[1];
  const topic = 'huge pages';
  if (mode === undefined) {
    return {
      topic,
      state: 'unknown',
      finding: 'the kernel does not say whether it has transparent huge pages',
    };
  }
  if (mode !== 'never') return { topic, state: 'good', finding: `transparent huge pages: ${mode}` };
  return {
    topic,
    state: 'limited',
    finding: 'transparent huge pages are off: touching and registering large buffers takes longer',
    mend: 'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (as root)',
  };
}

export function checkIoUring(probe: IoProbe, kernelRelease: string, system: System): Finding {
  const topic = 'io_uring';
  if (probe.engine === 'io_uring') return { topic, state: 'good', finding: `works (Linux ${kernelRelease})` };
  const { finding, mend } = whyNoRing(kernelRelease, system);
  return {
    topic,
    state: 'limited',
    finding: `${finding}; a pool of threads reads instead, at some more CPU time`,
    mend,
  };
}

function whyNoRing(kernelRelease: string, system: System): { finding: string; mend: string } {
  const [major = 0, minor = 0] = kernelRelease.split('.').map((part) => Number.parseInt(part, 10));
  if (major < 5 || (major === 5 && minor < 6)) {
    return { finding: `Linux ${kernelRelease} is too old for it`, mend: 'use Linux 5.6 or later' };
  }
  const disabled = system.readText('/proc/sys/kernel/io_uring_disabled')?.trim();
  if (disabled === '1' || disabled === '2') {
    const whom = disabled === '2' ? 'everyone' : 'all but root and the group kernel.io_uring_group';
    return {
      finding: `kernel.io_uring_disabled is ${disabled}: it is off for ${whom}`,
      mend: 'sysctl -w kernel.io_uring_disabled=0 (as root)',
    };
  }
  const seccomp = /^Seccomp:\s+(\d)/m.exec(system.readText('/proc/self/status') ?? '')?.[1];
  if (seccomp === '2') {
    return {
      finding: 'a seccomp filter forbids it, as Docker’s default profile does',
      mend: 'docker run --security-opt seccomp=FILE with a profile that permits io_uring_setup, _enter and _register (or seccomp=unconfined)',
    };
  }
  return { finding: 'the kernel refuses it', mend: 'use a kernel built with CONFIG_IO_URING' };
}

/** What remedies depend on: who the process is, and where it runs. */
export interface Standing {
  readonly isRoot: boolean;
  readonly userName: string;
  /** A systemd unit started it. */
  readonly isService: boolean;
}

export function checkRegistration(probe: IoProbe, system: System, standing: Standing): Finding {
  const topic = 'locked memory';
  const [soft, hard] = lockedLimits(system);
  const limit =
    soft === undefined ? 'limit unknown' : soft === UNLIMITED ? 'no limit' : `limit ${formatBytes(soft)}`;
  if (probe.registered)
    return { topic, state: 'good', finding: `${limit}; buffers can be registered with the ring` };
  if (probe.engine !== 'io_uring')
    return {
      topic,
      state: 'unknown',
      finding: `${limit}; without io_uring there is nothing to register with`,
    };
  return {
    topic,
    state: 'limited',
    finding: `${limit}; ${probe.registrationNote ?? 'buffers cannot be registered'}`,
    mend:
      soft === UNLIMITED
        ? 'the limit is not what forbids it: use Linux 5.13 or later, or permit io_uring_register in the container’s seccomp profile'
        : howToLock(soft !== hard && hard === UNLIMITED, system, standing),
  };
}

const UNLIMITED = Number.POSITIVE_INFINITY;

/** Soft and hard; a process may raise the first to the second. */
function lockedLimits(system: System): (number | undefined)[] {
  const match = /^Max locked memory\s+(\S+)\s+(\S+)/m.exec(system.readText('/proc/self/limits') ?? '');
  return [match?.[1], match?.[2]].map((text) =>
    text === undefined ? undefined : text === 'unlimited' ? UNLIMITED : Number(text),
  );
}

/** `ulimit` raises no hard limit but root's, login limits do not reach services, and neither reaches a container. */
function howToLock(mayRaise: boolean, system: System, { isRoot, userName, isService }: Standing): string {
  if (mayRaise) return 'ulimit -l unlimited in this shell, before the program starts';
  if (CONTAINER_FILES.some((path) => system.exists(path))) {
    return 'start the container with docker run --ulimit memlock=-1:-1 (podman takes the same)';
  }
  if (isService) {
    return 'LimitMEMLOCK=infinity in the [Service] section of the systemd unit, then systemctl daemon-reload and restart it';
  }
  if (isRoot) return 'ulimit -l unlimited in this shell, before the program starts (root may raise it)';
  return (
    `as root, put the line “${userName} - memlock unlimited” into /etc/security/limits.d/memlock.conf, then log in again ` +
    '(for a service: LimitMEMLOCK=infinity in its systemd unit)'
  );
}

/** Docker's and podman's marks. */
const CONTAINER_FILES = ['/.dockerenv', '/run/.containerenv'];

/** @param path what was tried */
export function checkDirect(path: string, direct: boolean, note: string | undefined): Finding {
  if (direct) return { topic: 'O_DIRECT', state: 'good', finding: `works at ${path}` };
  return {
    topic: 'O_DIRECT',
    state: 'limited',
    finding: note ?? `refused at ${path}: reads go through the page cache`,
    mend: 'keep weights on a local drive with ext4, xfs or btrfs, not on tmpfs, overlay or a network mount',
  };
}

const LIBRARY_FOLDERS = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib64',
  '/usr/lib',
  '/usr/local/nvidia/lib64',
  '/usr/lib/wsl/lib',
  '/run/opengl-driver/lib',
];

const MOST_GPUS = 32;

/** Which step of the chain device, driver, library is missing. */
export function checkCuda(system: System, libraryPath: string | undefined): Finding {
  const topic = 'CUDA';
  const driver = /Kernel Module\s+(?:for \S+\s+)?(\d[\d.]*)/.exec(
    system.readText('/proc/driver/nvidia/version') ?? '',
  )?.[1];
  const folders = [...(libraryPath ?? '').split(':').filter((folder) => folder !== ''), ...LIBRARY_FOLDERS];
  const library = folders.map((folder) => `${folder}/libcuda.so.1`).find((path) => system.exists(path));
  // A container may see the fourth GPU alone.
  const devices = Array.from({ length: MOST_GPUS }, (_, index) => `/dev/nvidia${index}`);
  const hasDevice = [...devices, '/dev/dxg'].some((path) => system.exists(path));
  if (driver === undefined && !system.exists('/dev/dxg')) {
    return {
      topic,
      state: 'absent',
      finding: 'no NVIDIA driver is loaded, so models run on the CPU',
      mend: 'with an NVIDIA GPU, install its driver (580 or later); without one there is nothing to do',
    };
  }
  if (!hasDevice) {
    return {
      topic,
      state: 'absent',
      finding: `NVIDIA driver ${driver} is loaded, but no GPU is visible here (/dev/nvidia0 and so on)`,
      mend: 'in a container: docker run --gpus all, with the NVIDIA Container Toolkit',
    };
  }
  if (library === undefined) {
    return {
      topic,
      state: 'absent',
      finding: `a GPU is visible (driver ${driver ?? 'of Windows'}), but libcuda.so.1 is not found`,
      mend: 'install the driver’s user libraries (libcuda1 or nvidia-driver-cuda), or add their folder to LD_LIBRARY_PATH',
    };
  }
  return { topic, state: 'good', finding: `driver ${driver ?? 'of Windows'}, ${library}` };
}
