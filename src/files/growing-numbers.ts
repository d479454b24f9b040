// A list of whole numbers that grows, at a few bytes each: a million prompts have several of them.

type Numbers = Int32Array | Float64Array;

export class GrowingNumbers<T extends Numbers> {
  readonly #make: (length: number) => T;
  #room: T;
  #length = 0;

  constructor(make: (length: number) => T) {
    this.#make = make;
    this.#room = make(1024);
  }

  get length(): number {
    return this.#length;
  }

  get sizeBytes(): number {
    return this.#room.byteLength;
  }

  push(value: number): void {
    if (this.#length === this.#room.length) this.#reserve(this.#length + 1);
    this.#room[this.#length++] = value;
  }

  append(values: ArrayLike<number>): void {
    if (this.#length + values.length > this.#room.length) this.#reserve(this.#length + values.length);
    this.#room.set(values, this.#length);
    this.#length += values.length;
  }

  at(index: number): number {
    const value = index < this.#length ? this.#room[index] : undefined;
    if (value === undefined) throw new RangeError(`there is no number ${index} of ${this.#length}`);
    return value;
  }

  /** Shares memory with the list. */
  values(): T {
    return this.#room.subarray(0, this.#length) as T;
  }

  /** A half more each time: what is copied stays within a few times what is there. */
  #reserve(least: number): void {
    const room = this.#make(Math.max(least, Math.ceil(this.#room.length * 1.5)));
    room.set(this.#room.subarray(0, this.#length));
    this.#room = room;
  }
}
