// What a pickle works on: its bytes, a stack with marks, and a memo. Knows no opcodes; errors say where they are.

import { OperatingError } from '../../offload/index.js';
import type { Value } from './torch-values.js';

/** PyTorch has no longer names; messages show as much of one. */
export const MAX_NAME_BYTES = 200;

export class PickleMachine {
  readonly #bytes: Buffer;
  readonly #path: string;
  readonly #stack: Value[] = [];
  /** Heights of the stack at each MARK. */
  readonly #marks: number[] = [];
  readonly #memo = new Map<number, Value>();
  #at = 0;

  constructor(bytes: Uint8Array, path: string) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#path = path;
  }

  /** Bytes read so far. */
  get position(): number {
    return this.#at;
  }

  get leftBytes(): number {
    return this.#bytes.length - this.#at;
  }

  /** The next bytes, as a view. */
  next(count: number): Buffer {
    if (count > this.leftBytes) throw this.bad('ends in the middle: the file is damaged');
    this.#at += count;
    return this.#bytes.subarray(this.#at - count, this.#at);
  }

  byte(): number {
    const byte = this.#bytes[this.#at];
    if (byte === undefined) throw this.bad('ends in the middle: the file is damaged');
    this.#at++;
    return byte;
  }

  text(bytes: number): string {
    return this.next(bytes).toString('utf8');
  }

  /** Up to the next line feed, which is left out. */
  line(): string {
    const end = this.#bytes.subarray(this.#at, this.#at + MAX_NAME_BYTES + 1).indexOf(0x0a);
    if (end < 0) throw this.bad(`has a name longer than ${MAX_NAME_BYTES} bytes`);
    const text = this.text(end);
    this.#at++;
    return text;
  }

  /** A two's complement number, lowest byte first. */
  long(bytes: number): number {
    if (bytes > 8) throw this.bad(`holds a whole number of ${bytes} bytes; no size needs more than 8`);
    const magnitude = this.next(bytes).reduceRight((sum, byte) => sum * 256n + BigInt(byte), 0n);
    const value = BigInt.asIntN(bytes * 8, magnitude);
    if (!Number.isSafeInteger(Number(value))) throw this.bad(`holds the number ${value}, beyond 2^53`);
    return Number(value);
  }

  mark(): void {
    this.#marks.push(this.#stack.length);
  }

  push(value: Value): void {
    this.#stack.push(value);
  }

  /** The value on top, which stays. */
  top(): Value | undefined {
    return this.#stack.at(-1);
  }

  /** The last `count` values, none of which may lie below the last mark. */
  pop(count: number): Value[] {
    const available = this.#stack.length - (this.#marks.at(-1) ?? 0);
    if (available < count) throw this.bad('takes more values than it made');
    return this.#stack.splice(this.#stack.length - count, count);
  }

  popToMark(): Value[] {
    const mark = this.#marks.pop();
    if (mark === undefined) throw this.bad('ends a group that it never began');
    return this.#stack.splice(mark);
  }

  /** Stores the value on top; without an index under the next one that is free. */
  remember(index = this.#memo.size): void {
    const value = this.top();
    if (value === undefined) throw this.bad('stores a value before it made one');
    this.#memo.set(index, value);
  }

  recall(index: number): void {
    const value = this.#memo.get(index);
    if (value === undefined) throw this.bad(`recalls value ${index}, which it never stored`);
    this.push(value);
  }

  bad(problem: string): OperatingError {
    return new OperatingError(
      'BAD_TORCH_FILE',
      `${this.#path}: its pickle ${problem} (at byte ${this.#at}); nothing of it was executed`,
    );
  }
}
