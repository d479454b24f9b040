// Reads from files into host memory through the native reader: what every native backend does alike.

import { assert, cannotOpen, OperatingError } from '../errors.js';
import {
  type DriveFigures,
  type FileRef,
  READ_ALIGNMENT_BYTES,
  type ReadRequest,
  type ReadSpan,
} from '../port/backend.js';
import type { FilePieces } from '../port/file-pieces.js';
import type { FileState } from '../port/file-state.js';
import { native } from '../port/native.js';
import {
  type IoFailure,
  type IoOptions,
  type NativeIo,
  type NativePieces,
  READ_WORDS,
} from '../port/native-io.js';
import type { Memory } from '../port/ops.js';
import { FileWatch } from './file-watch.js';
import { DEFAULT_IO_OPTIONS } from './io-defaults.js';
import type { MappedMemory } from './mapped-memory.js';

export class FileReads {
  readonly #io: NativeIo;
  readonly #wantsDirect: boolean;
  readonly #files: FileRef[] = [];
  readonly #watch = new FileWatch();
  /** Nobody else is told of their failures. */
  readonly #pieces: NativePieces[] = [];
  /** Buffers that layers pass through and that are still to be registered with the ring. */
  readonly #registration = new Map<MappedMemory, 'untouched' | 'touched'>();

  constructor(options: Partial<IoOptions> = {}) {
    const ioOptions = { ...DEFAULT_IO_OPTIONS, ...options };
    this.#wantsDirect = ioOptions.direct;
    this.#io = createIo(ioOptions);
  }

  get notes(): readonly string[] {
    if (!this.#wantsDirect) return this.#io.notes;
    const buffered = this.#files.filter((file) => !file.direct).map((file) => file.path);
    const said =
      buffered.length > 0 ? [`${buffered[0]} and its file system refuse O_DIRECT: reads are buffered`] : [];
    return [...this.#io.notes, ...said];
  }

  get engine(): string {
    return this.#io.engine;
  }

  /** The memory is read into again and again: worth registering with the ring. */
  reuse(memory: MappedMemory): void {
    this.#registration.set(memory, 'untouched');
  }

  open(path: string): FileRef {
    try {
      const { file, descriptor, sizeBytes, direct, alignmentBytes } = this.#io.open(path);
      assert(READ_ALIGNMENT_BYTES % alignmentBytes === 0, 'reads are aligned for this file');
      const ref = { file, path, sizeBytes, direct };
      this.#files.push(ref);
      this.#watch.add(path, descriptor);
      return ref;
    } catch (error) {
      throw cannotOpen(path, error);
    }
  }

  /** As `Backend.checkFiles`. Not after `close`. */
  check(expected?: ReadonlyMap<string, FileState>): void {
    if (expected) this.#watch.expect(expected);
    this.#watch.check();
    for (const pieces of this.#pieces) {
      const failure = pieces.failure();
      if (failure) throw this.#explain(failure);
    }
  }

  /** As `Backend.filePieces`. */
  pieces(pieces: readonly (readonly ReadRequest[])[], into: Memory): FilePieces {
    const counts = Float64Array.from(pieces, ({ length }) => length);
    const made = this.#io.pieces(wordsOf(pieces.flat(), into), counts, into.id);
    this.#pieces.push(made);
    return made;
  }

  async read(requests: readonly ReadRequest[], into: MappedMemory, urgent: boolean): Promise<ReadSpan> {
    this.#registerOnceTouched(into);
    try {
      const span = await this.#io.read(wordsOf(requests, into), urgent);
      if (this.#registration.get(into) === 'untouched') this.#registration.set(into, 'touched');
      return span;
    } catch (error) {
      throw this.#explain(error);
    }
  }

  /** As `Backend.driveFigures`. */
  driveFigures(): readonly DriveFigures[] {
    return this.#io.stats().drives;
  }

  /** Rejects what is queued and waits for what is in flight. */
  close(): Promise<void> {
    return this.#io.close();
  }

  /**
   * Registering memory that was never touched costs a second per gigabyte, and so does touching it beforehand; so the
   * first read into such a buffer, which touches it anyway, goes without, and then registration is a matter of milliseconds.
   */
  #registerOnceTouched(memory: MappedMemory): void {
    if (this.#registration.get(memory) !== 'touched') return;
    this.#registration.delete(memory);
    this.#io.register(memory.native);
  }

  #explain(error: unknown): unknown {
    if (!isIoFailure(error)) return error;
    const path = this.#files.find((file) => file.file === error.file)?.path ?? `file ${error.file}`;
    switch (error.errnoName) {
      case 'ECANCELED':
        return new OperatingError('INTERRUPTED', 'reading was stopped', { cause: error });
      case 'ESHORT':
        return new OperatingError(
          'FILE_CHANGED',
          `${path} ended at offset ${error.fileOffset} although its header promises more: the file shrank while it was in use`,
          { cause: error },
        );
      default:
        return new OperatingError(
          'READ_FAILED',
          `${path} cannot be read at offset ${error.fileOffset} (${error.errnoName}): check the drive and the kernel log`,
          { cause: error },
        );
    }
  }
}

function wordsOf(requests: readonly ReadRequest[], into: Memory): Float64Array {
  const words = new Float64Array(requests.length * READ_WORDS);
  requests.forEach((request, index) => {
    const { file, fileOffset, sizeBytes, requiredBytes, memoryOffset } = request;
    words.set([file.file, fileOffset, sizeBytes, requiredBytes, into.id, memoryOffset], index * READ_WORDS);
  });
  return words;
}

function createIo(options: IoOptions): NativeIo {
  try {
    return native().createIo(options);
  } catch (error) {
    if (options.engine === 'auto') throw error;
    throw new OperatingError(
      'NO_DEVICE',
      `--io_engine ${options.engine} cannot be used on this machine: ${messageOf(error)}; use --io_engine auto`,
      { cause: error },
    );
  }
}

function isIoFailure(error: unknown): error is Error & IoFailure {
  return error instanceof Error && 'errnoName' in error;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
