// What the addon has of host memory and of reads from files.

/** Page-aligned host memory; stays mapped while queued work or a view refers to it. */
export interface NativeMemory {
  readonly id: number;
  readonly sizeBytes: number;
  view(offsetBytes: number, sizeBytes: number): ArrayBuffer;
  /** Touches every page with up to that many threads. */
  populate(threads: number): void;
  /** The same on a thread of the addon, one memory after the other, beside reads into it; does nothing before Linux 5.14. */
  populateSoon(): void;
  /** Pages that nobody has touched come to lie on these nodes in turns. Returns why not, or an empty sentence. */
  placeOnNodes(nodes: readonly number[]): string;
  free(): void;
}

export type IoEngine = 'io_uring' | 'threads';

export interface IoOptions {
  /** `auto` takes io_uring and falls back to threads where it is not allowed. */
  readonly engine: 'auto' | IoEngine;
  /** Reads in flight at once on each drive. */
  readonly queueDepth: number;
  /** Larger reads are split into pieces of this size. A multiple of 4096. */
  readonly chunkBytes: number;
  /** Try O_DIRECT; files that refuse it are read buffered. */
  readonly direct: boolean;
  /** Try to register memory with the ring. */
  readonly fixedBuffers: boolean;
  readonly faults?: IoFaults;
}

/**
 * Test only: conditions that real machines show rarely, injected where the system calls return. Errno values are
 * `os.constants.errno`'s. Bytes that a fault withholds are overwritten, so a reader that does not fetch them again is
 * caught.
 */
export interface IoFaults {
  /** The ring cannot be created. */
  readonly ringInitErrno?: number;
  /** The kernel refuses to register buffers. */
  readonly registerErrno?: number;
  /** Opening with O_DIRECT fails. */
  readonly directOpenErrno?: number;
  /** Opening with O_DIRECT works, the first read fails. */
  readonly directReadErrno?: number;
  /** Every n-th read brings an odd half of its bytes. */
  readonly shortEveryN?: number;
  /** Every n-th read fails with EAGAIN. */
  readonly eagainEveryN?: number;
  /** The read that covers this byte of any file fails. */
  readonly errorAtFileOffset?: { readonly offset: number; readonly errno: number };
}

export interface OpenedFile {
  readonly file: number;
  /** To ask the system about it; open until the file is closed. */
  readonly descriptor: number;
  readonly sizeBytes: number;
  /** False: buffered reads, because O_DIRECT was not asked for or was refused. */
  readonly direct: boolean;
  /** Which of the reader's drives it lies on: files of one file system have the same number. */
  readonly drive: number;
  /** Offsets, sizes and addresses of reads must be multiples of this (1 when buffered). */
  readonly alignmentBytes: number;
}

export interface IoStats {
  readonly bytes: number;
  readonly reads: number;
  /** Reads that ended early and were continued. */
  readonly shortReads: number;
  /** Reads retried after EAGAIN or EINTR. */
  readonly retries: number;
  readonly maxInFlight: number;
  /** By number of the drive: what it has delivered, and for how long a read was with it. */
  readonly drives: readonly { readonly bytes: number; readonly busyMs: number }[];
}

/** When a batch of reads started and ended, in milliseconds of `nowMs`. */
export interface IoSpan {
  readonly startMs: number;
  readonly endMs: number;
  readonly bytes: number;
}

/** Reason with which `read` rejects: a plain Error with these fields. */
export interface IoFailure {
  /** `EIO`, …; `ESHORT` when the file ended before the required bytes; `ECANCELED` after close(). */
  readonly errnoName: string;
  readonly file: number;
  readonly fileOffset: number;
  readonly message: string;
}

/** Pieces of files that work on streams reads by itself. */
export interface NativePieces {
  readonly id: number;
  /** What the first read that failed rejects with elsewhere; null where none did. */
  failure(): (Error & IoFailure) | null;
  stats(): { readonly bytes: number; readonly busyMs: number };
}

export const READ_WORDS = 6;

export interface NativeIo {
  readonly engine: IoEngine;
  /** Sentences that say what was lost and why (no io_uring, no registration, …); empty when nothing was. */
  readonly notes: readonly string[];
  /** Throws an Error with `code` ('ENOENT', …) where the file cannot be read. */
  open(path: string): OpenedFile;
  /** Reads already queued still finish. */
  closeFile(file: number): void;
  /** Registers memory as a fixed buffer; false when the kernel refuses (a note says why). */
  register(memory: NativeMemory): boolean;
  /** Registered memory stays mapped until this or close(), even after its free(). */
  unregister(memory: NativeMemory): void;
  /**
   * Queues a batch of reads, READ_WORDS numbers each: file, fileOffset, sizeBytes, requiredBytes, memory id, memoryOffset.
   * A read may end at the end of the file once requiredBytes have arrived. Resolves when all are done; when one fails,
   * rejects with an IoFailure once nothing writes into the batch's memory any more. Other batches go on.
   * `urgent`: before batches that are queued and not urgent.
   * Misuse (unknown ids, out of bounds, misaligned direct reads) throws TypeError or RangeError at once.
   */
  read(requests: Float64Array, urgent?: boolean): Promise<IoSpan>;
  /**
   * Reads as `read` takes them, so many of them for each piece, into the memory of that id; memoryOffset counts from where the piece is
   * to begin.
   */
  pieces(requests: Float64Array, counts: Float64Array, memoryId: number): NativePieces;
  stats(): IoStats;
  /** Rejects what is queued, waits for what is in flight, frees the ring. */
  close(): Promise<void>;
}
