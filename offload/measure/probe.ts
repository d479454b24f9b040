// Tries what the runtime would like to use on this machine, and says what was refused and why.

import { CpuBackend } from '../backends/cpu.js';
import { DEFAULT_IO_OPTIONS } from '../backends/io-defaults.js';
import { MappedMemory } from '../backends/mapped-memory.js';
import { OperatingError } from '../errors.js';
import { native } from '../port/native.js';
import type { IoEngine } from '../port/native-io.js';
import { MiB } from '../units.js';

export interface IoProbe {
  readonly engine: IoEngine;
  /** Why it is not io_uring. */
  readonly engineNote: string | undefined;
  /** A buffer that is read into again and again can be registered with the ring. */
  readonly registered: boolean;
  readonly registrationNote: string | undefined;
}

const PROBE_BYTES = 64 * MiB;

/** Sets up the read engine as a run would, with one buffer. Throws DOES_NOT_FIT. */
export async function probeIo(): Promise<IoProbe> {
  const io = native().createIo(DEFAULT_IO_OPTIONS);
  let mapped: MappedMemory | undefined;
  try {
    mapped = new MappedMemory(PROBE_BYTES, true);
    const memory = mapped.native;
    const engineNote = io.notes[0];
    memory.populate(1);
    const registered = io.register(memory);
    return {
      engine: io.engine,
      engineNote,
      registered,
      registrationNote: io.notes.slice(engineNote ? 1 : 0)[0],
    };
  } finally {
    await io.close();
    mapped?.native.free();
  }
}

/** Whether reads of this file bypass the page cache, or why not. Throws NOT_FOUND. */
export async function probeDirect(path: string): Promise<{ direct: boolean; note: string | undefined }> {
  const backend = new CpuBackend();
  try {
    const { direct } = backend.openFile(path);
    return { direct, note: direct ? undefined : backend.notes.find((note) => note.includes('O_DIRECT')) };
  } finally {
    await backend.close();
  }
}

/** Kernel sets that this processor can run, best last; empty where it lacks what all of them need. */
export function instructionSets(): string[] {
  return native().instructionSets();
}

/** Throws NO_DEVICE where there are none, before anything that needs them begins. */
export function checkInstructions(sets: readonly string[] = instructionSets()): void {
  if (sets.length > 0) return;
  throw new OperatingError(
    'NO_DEVICE',
    'this processor, or the virtual machine, has no AVX2, FMA and F16C, which the kernels of the CPU need: use a ' +
      'processor of 2013 or later, or in a virtual machine pass the host’s processor through (-cpu host)',
  );
}
