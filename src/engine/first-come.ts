// A set that tells its first element at once, however many have left before it.

/**
 * A plain set looks for its first element past the places of all that have left, until it is packed again: with very many
 * elements that takes longer than whatever they wait for.
 */
export class FirstCome<T extends object> {
  readonly #items = new Set<T>();
  /** All that it has passed have left, but for `#first`. */
  #ahead = this.#items.values();
  #first: T | undefined;

  get size(): number {
    return this.#items.size;
  }

  /** Undefined where there is none. */
  get first(): T | undefined {
    if (this.#first === undefined && this.#items.size > 0) {
      let next = this.#ahead.next();
      if (next.done) {
        this.#ahead = this.#items.values();
        next = this.#ahead.next();
      }
      this.#first = next.value;
    }
    return this.#first;
  }

  /** As the last one, unless it is here already. */
  add(item: T): void {
    this.#items.add(item);
  }

  /** False where it is not here. */
  delete(item: T): boolean {
    if (item === this.#first) this.#first = undefined;
    return this.#items.delete(item);
  }

  [Symbol.iterator](): SetIterator<T> {
    return this.#items.values();
  }
}
