// A native queue of work as a stream of the port, for every native backend.

import { assert, OperatingError } from '../errors.js';
import type { DeviceEvent, DeviceStream, KeptWork, RowCopy } from '../port/backend.js';
import type { NativeEvent } from '../port/native-devices.js';
import type { Memory, Op } from '../port/ops.js';
import { encodeCopy, encodeCopyRows, encodeOp, joinEncoded } from './op-encoding.js';
import type { ShortWaits } from './short-waits.js';

/** What the addon's streams have in common. */
export interface NativeQueue {
  launchAll(words: Float64Array, kept?: number): void;
  record(): NativeEvent;
  wait(event: NativeEvent): void;
  close(): void | Promise<void>;
}

class QueueEvent implements DeviceEvent {
  /** Null when the stream was closed before. */
  readonly native: NativeEvent | null;
  readonly #stream: QueueStream;
  #timeMs = Number.NaN;
  constructor(event: NativeEvent | null, stream: QueueStream) {
    this.native = event;
    this.#stream = stream;
  }
  /** Asked for several times, and a driver takes microseconds to say. */
  get timeMs(): number {
    if (Number.isNaN(this.#timeMs)) this.#timeMs = this.native?.timeMs ?? Number.NaN;
    return this.#timeMs;
  }
  async reached(urgent = false): Promise<void> {
    try {
      const { native } = this;
      if (!native) throw new Error('recorded on a closed stream');
      const { shortWaits } = this.#stream;
      if (!urgent || !shortWaits) return await native.promise();
      await shortWaits.wait(
        () => native.done,
        () => native.promise(true),
      );
    } catch (error) {
      if (!this.#stream.closed) throw error;
      throw new OperatingError('INTERRUPTED', 'computing was stopped', { cause: error });
    }
  }
}

/** No two in a process are of the same number. */
let keptCount = 0;

class EncodedWork implements KeptWork {
  readonly number = ++keptCount;
  readonly count: number;
  readonly words: Float64Array;
  constructor(operations: readonly Float64Array[]) {
    this.count = operations.length;
    this.words = joinEncoded(operations);
  }
}

/** About a hundred operations. */
const BATCH_WORDS = 8192;

/**
 * Operations are collected and handed over together, at the latest when somebody could see whether they run.
 * After close() nothing runs any more: what is still queued by a pass that has not noticed yet is dropped.
 */
export class QueueStream<Q extends NativeQueue = NativeQueue> implements DeviceStream {
  readonly #native: Q;
  #batch = new Float64Array(BATCH_WORDS);
  #batchWords = 0;
  /** What is collected meets other devices, so it is handed over whole: see `RunPrepared` in native/cuda/replay.cc. */
  #meets = false;
  /** Where `keep` collects instead. */
  #keeping: Float64Array[] | undefined;
  closed = false;
  /** Where JavaScript may look whether the device is done; absent where looking takes the processor from computing. */
  readonly shortWaits: ShortWaits | undefined;
  constructor(queue: Q, shortWaits?: ShortWaits) {
    this.#native = queue;
    this.shortWaits = shortWaits;
  }
  /** For what is queued on several streams at once. */
  get native(): Q {
    this.#handOver();
    return this.#native;
  }
  launch(op: Op): void {
    if (this.closed) return;
    if (op.op === 'reduce' && !this.#keeping) this.#meets = true;
    this.#collect(encodeOp(op));
  }
  copy(to: Memory, toOffsetBytes: number, from: Memory, fromOffsetBytes: number, sizeBytes: number): void {
    if (this.closed || sizeBytes === 0) return;
    this.#collect(encodeCopy(to, toOffsetBytes, from, fromOffsetBytes, sizeBytes));
  }
  copyRows(copy: RowCopy): void {
    if (this.closed || copy.rows === 0 || copy.rowBytes === 0) return;
    this.#collect(encodeCopyRows(copy));
  }
  record(): DeviceEvent {
    assert(!this.#keeping, 'work that is kept records nothing');
    if (this.closed) return new QueueEvent(null, this);
    this.#handOver();
    return new QueueEvent(this.#native.record(), this);
  }
  wait(event: DeviceEvent): void {
    assert(event instanceof QueueEvent, 'events of one backend stay together');
    assert(!this.#keeping, 'work that is kept waits for nothing');
    if (this.closed || !event.native) return;
    this.#handOver();
    this.#native.wait(event.native);
  }
  keep(queue: () => void): KeptWork {
    assert(!this.#keeping, 'work is kept part by part');
    const operations: Float64Array[] = [];
    this.#keeping = operations;
    try {
      queue();
    } finally {
      this.#keeping = undefined;
    }
    return new EncodedWork(operations);
  }
  repeat(work: KeptWork): void {
    assert(work instanceof EncodedWork, 'work is repeated where it was kept');
    if (this.closed || work.count === 0) return;
    this.#handOver();
    this.#native.launchAll(work.words, work.number);
  }
  /** Resolves when nothing that was queued touches memory any more. */
  async close(): Promise<void> {
    this.closed = true;
    await this.#native.close();
  }

  #collect(words: Float64Array): void {
    if (this.#keeping) {
      this.#keeping.push(words.slice());
      return;
    }
    if (this.#batchWords + 1 + words.length > this.#batch.length) {
      if (this.#meets) this.#grow(this.#batchWords + 1 + words.length);
      else this.#handOver();
    }
    if (1 + words.length > this.#batch.length) {
      // Many experts of many parts.
      this.#native.launchAll(joinEncoded([words]));
      return;
    }
    this.#batch[this.#batchWords] = words.length;
    this.#batch.set(words, this.#batchWords + 1);
    this.#batchWords += 1 + words.length;
  }

  #grow(words: number): void {
    const grown = new Float64Array(2 * words);
    grown.set(this.#batch);
    this.#batch = grown;
  }

  #handOver(): void {
    if (this.#batchWords === 0 || this.closed) return;
    const words = this.#batch.subarray(0, this.#batchWords);
    this.#batchWords = 0;
    this.#meets = false;
    this.#native.launchAll(words);
  }
}
