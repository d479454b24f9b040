// Streams a store's files: pieces are read ahead, quantised, and written, each beside the others, in memory for a few.

import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type CpuBackendOptions,
  NativeHost,
  OperatingError,
  present,
  quantise,
  roundDown,
  roundUp,
} from '../../offload/index.js';
import type { Checkpoint } from '../checkpoint/checkpoint.js';
import { safetensorsHeader } from '../checkpoint/safetensors-header.js';
import { ALIGNMENT_BYTES, DirectFile, stagingBuffer } from '../files/direct-file.js';
import { bufferNeeds, type Piece, piecesOf, type SourceRange } from './pieces.js';
import { addLoss, type Loss, NO_LOSS } from './record.js';
import type { Scheme } from './scheme.js';
import type { Section, StoreFile } from './store-plan.js';
import { transpose } from './transpose.js';

export interface WriteOptions {
  /** How the source is read. */
  readonly io?: CpuBackendOptions['io'] | undefined;
  readonly checkpoint: Checkpoint;
  readonly scheme: Scheme;
  readonly files: readonly StoreFile[];
  readonly folder: string;
  /** Goes into every file's header. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly signal: AbortSignal | undefined;
  readonly onBytes: (bytes: number) => void;
  /** A file is whole and durable. */
  readonly onFile: (file: StoreFile, loss: Loss) => Promise<void>;
}

/** One piece is quantised, the one before it is written, and so many are read ahead. */
const AHEAD = 2;
const SLOTS = AHEAD + 2;
const STAGING_BYTES = 8 << 20;

type Memory = ReturnType<NativeHost['allocate']>;

interface Queued {
  readonly piece: Piece;
  readonly slot: Memory | undefined;
  readonly reading: Promise<unknown>;
}

/** Errors: READ_FAILED, FILE_CHANGED, NOT_FINITE, INTERRUPTED, and what writing throws. */
export async function writeFiles(options: WriteOptions): Promise<void> {
  const host = new NativeHost(options.io);
  const writer = new StoreWriter(options);
  try {
    await new Packer(options, host, writer).run();
  } finally {
    await writer.abandon();
    await host.close();
  }
}

class Packer {
  readonly #options: WriteOptions;
  readonly #host: NativeHost;
  readonly #writer: StoreWriter;
  readonly #pieces: Generator<Piece>;
  readonly #slots: readonly Memory[];
  readonly #codes: readonly Memory[];
  readonly #scales: readonly Memory[];
  /** Values that are stored [inputs, rows], turned. */
  readonly #turned: Memory | undefined;
  readonly #sources: readonly ReturnType<NativeHost['openFile']>[];
  #reads = 0;
  #turns = 0;
  #matrices = 0;
  #loss: Loss = NO_LOSS;
  /** Scales of less than a page, until their turn. */
  readonly #small = new Map<string, Uint8Array>();

  constructor(options: WriteOptions, host: NativeHost, writer: StoreWriter) {
    const { checkpoint, files } = options;
    this.#options = options;
    this.#host = host;
    this.#writer = writer;
    this.#pieces = piecesOf(files);
    const { sourceBytes, codeBytes, scaleBytes, turnedBytes } = bufferNeeds(files);
    const memories = (count: number, sizeBytes: number) =>
      Array.from({ length: count }, () => host.allocate(roundUp(sizeBytes, ALIGNMENT_BYTES), 'stream'));
    // A read begins and ends at a page.
    this.#slots = memories(SLOTS, sourceBytes + 2 * ALIGNMENT_BYTES);
    this.#codes = memories(2, codeBytes);
    this.#scales = memories(2, scaleBytes);
    this.#turned = turnedBytes > 0 ? memories(1, turnedBytes)[0] : undefined;
    this.#sources = checkpoint.files.map((path) => host.openFile(path));
    host.checkFiles(
      new Map(checkpoint.files.map((path, i) => [path, present(checkpoint.fileStates[i], 'state')])),
    );
  }

  async run(): Promise<void> {
    const { signal, onBytes } = this.#options;
    const queue: Queued[] = [];
    let writing: Promise<void> = Promise.resolve();
    try {
      for (;;) {
        while (queue.filter(({ slot }) => slot).length <= AHEAD) {
          const next = this.#pieces.next();
          if (next.done === true) break;
          queue.push(this.#begin(next.value));
        }
        const queued = queue.shift();
        if (!queued) break;
        if (signal?.aborted)
          throw new OperatingError('INTERRUPTED', 'packing was stopped: the same command goes on');
        await queued.reading;
        const write = await this.#turn(queued);
        await writing;
        writing = write();
        writing.catch(() => undefined); // awaited before the next one
        if ('source' in queued.piece) onBytes(queued.piece.source.sizeBytes);
      }
      await writing;
    } finally {
      // Memory and files must outlive what uses them.
      await Promise.allSettled([writing, ...queue.map(({ reading }) => reading)]);
    }
  }

  #begin(piece: Piece): Queued {
    if (!('source' in piece)) return { piece, slot: undefined, reading: Promise.resolve() };
    const slot = present(this.#slots[this.#reads++ % SLOTS], 'slot');
    const { fileIndex, fileOffset, sizeBytes } = piece.source;
    const start = roundDown(fileOffset, ALIGNMENT_BYTES);
    const requiredBytes = fileOffset - start + sizeBytes;
    const request = {
      file: present(this.#sources[fileIndex], 'source'),
      fileOffset: start,
      sizeBytes: roundUp(requiredBytes, ALIGNMENT_BYTES),
      requiredBytes,
      memoryOffset: 0,
    };
    const reading = this.#host.read([request], slot);
    reading.catch(() => undefined); // awaited at its turn
    return { piece, slot, reading };
  }

  /** Computes, and returns what is then to be written. */
  async #turn({ piece, slot }: Queued): Promise<() => Promise<void>> {
    const writer = this.#writer;
    switch (piece.kind) {
      case 'begin':
        this.#loss = NO_LOSS;
        return () => writer.begin(piece.file);
      case 'end': {
        this.#host.checkFiles();
        const loss = this.#loss;
        return () => writer.end(piece.file, loss);
      }
      case 'made': {
        const bytes = this.#made(piece.section);
        return () => writer.append(bytes);
      }
      case 'copied': {
        const first = inSlot(piece.source);
        const bytes = present(slot, 'slot').bytes.subarray(first, first + piece.source.sizeBytes);
        return () => writer.append(bytes);
      }
      case 'rows': {
        const bytes = await this.#quantise(piece, present(slot, 'slot'));
        return () => writer.append(bytes);
      }
    }
  }

  #made(section: Section): Uint8Array {
    if (section.from === 'bytes') return section.bytes;
    const small = this.#small.get(section.name);
    this.#small.delete(section.name);
    return small ?? this.#scalesOfLast(section.sizeBytes);
  }

  #scalesOfLast(sizeBytes: number): Uint8Array {
    return present(this.#scales[this.#matrices % 2], 'scales').bytes.subarray(0, sizeBytes);
  }

  /** Where the values of a piece lie row by row. */
  #valuesIn(slot: Memory, { section, source }: Extract<Piece, { kind: 'rows' }>) {
    const { matrix } = section;
    if (!matrix.inputMajor) return { memory: slot.id, offsetBytes: inSlot(source) };
    const turned = present(this.#turned, 'memory for turned values');
    const bytes = slot.bytes.subarray(inSlot(source), inSlot(source) + source.sizeBytes);
    const Elements = ELEMENTS[matrix.dtype];
    // Files put numbers at any address.
    const isAligned = bytes.byteOffset % Elements.BYTES_PER_ELEMENT === 0;
    const from = isAligned ? bytes : Uint8Array.from(bytes);
    const count = source.sizeBytes / Elements.BYTES_PER_ELEMENT;
    transpose(
      new Elements(from.buffer, from.byteOffset, count),
      new Elements(turned.bytes.buffer, turned.bytes.byteOffset, count),
      matrix.rows,
    );
    return { memory: turned.id, offsetBytes: 0 };
  }

  async #quantise(piece: Extract<Piece, { kind: 'rows' }>, slot: Memory): Promise<Uint8Array> {
    const { section, firstRow, rows } = piece;
    const { matrix, parts } = section;
    if (firstRow === 0) this.#matrices++;
    const codes = present(this.#codes[this.#turns++ % 2], 'codes');
    const scales = present(this.#scales[this.#matrices % 2], 'scales');
    const loss = await quantise({
      to: this.#options.scheme.to,
      dtype: matrix.dtype,
      scaleDtype: parts.scaleType,
      rows,
      inputs: matrix.inputs,
      group: parts.group,
      values: this.#valuesIn(slot, piece),
      codes: { memory: codes.id, offsetBytes: 0 },
      scales: { memory: scales.id, offsetBytes: (parts.scales.sizeBytes / matrix.rows) * firstRow },
    });
    if (loss.notFinite >= 0) {
      const row = firstRow + Math.floor(loss.notFinite / matrix.inputs);
      throw new OperatingError(
        'NOT_FINITE',
        `${matrix.module}.weight of ${this.#options.checkpoint.folder} holds a value that is no finite number, in row ` +
          `${row} and column ${loss.notFinite % matrix.inputs}: it has no scale; get the checkpoint again, or mend it`,
      );
    }
    this.#loss = addLoss(this.#loss, loss);
    if (firstRow + rows === matrix.rows && parts.scales.sizeBytes < ALIGNMENT_BYTES) {
      this.#small.set(parts.scales.name, this.#scalesOfLast(parts.scales.sizeBytes).slice());
    }
    return codes.bytes.subarray(0, rows * parts.codeRowBytes);
  }
}

const ELEMENTS = { f32: Uint32Array, f16: Uint16Array, bf16: Uint16Array } as const;

function inSlot({ fileOffset }: SourceRange): number {
  return fileOffset - roundDown(fileOffset, ALIGNMENT_BYTES);
}

/** One file at a time, from front to back. */
class StoreWriter {
  readonly #options: WriteOptions;
  readonly #staging = stagingBuffer(STAGING_BYTES);
  #file: DirectFile | undefined;

  constructor(options: WriteOptions) {
    this.#options = options;
  }

  async begin({ name, sections }: StoreFile): Promise<void> {
    const path = join(this.#options.folder, name);
    // What an earlier run has left may still be open somewhere.
    await rm(path, { force: true });
    this.#file = await DirectFile.create(path, this.#staging);
    await this.#file.append(safetensorsHeader(sections, ALIGNMENT_BYTES, this.#options.metadata));
  }

  async append(bytes: Uint8Array): Promise<void> {
    await present(this.#file, 'file').append(bytes);
  }

  async end(file: StoreFile, loss: Loss): Promise<void> {
    await present(this.#file, 'file').finish();
    this.#file = undefined;
    await this.#options.onFile(file, loss);
  }

  /** Closes what was not finished. */
  async abandon(): Promise<void> {
    await this.#file?.abandon();
    this.#file = undefined;
  }
}
