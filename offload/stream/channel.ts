// A bounded queue between two stages: the sender waits while it is full, the receiver while it is empty.

import { assert } from '../errors.js';

export class Channel<T> {
  readonly #capacity: number;
  #items: T[] = [];
  #sender: (() => void) | undefined;
  #receiver: (() => void) | undefined;
  #ended: { readonly error: unknown } | undefined;

  /** @param capacity items that may wait; at least 1 */
  constructor(capacity: number) {
    assert(capacity >= 1, 'a channel holds at least one item');
    this.#capacity = capacity;
  }

  /** Resolves once there is room for one more item; rejects after `fail`. One sender at a time. */
  async room(): Promise<void> {
    while (this.#items.length >= this.#capacity && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#sender = resolve;
      });
    }
    if (this.#ended) throw this.#ended.error;
  }

  /** Adds an item; `room()` must have resolved. */
  push(item: T): void {
    this.#items.push(item);
    this.#wake();
  }

  /** The next item; rejects once the channel failed and is empty. One receiver at a time. */
  async next(): Promise<T> {
    for (;;) {
      const item = this.#items.shift();
      if (item !== undefined) {
        this.#wake();
        return item;
      }
      if (this.#ended) throw this.#ended.error;
      await new Promise<void>((resolve) => {
        this.#receiver = resolve;
      });
    }
  }

  /** What is waiting, for a clean-up after a failure. */
  drain(): T[] {
    return this.#items.splice(0);
  }

  /** Wakes both sides with the reason. Items already waiting can still be received. */
  fail(error: unknown): void {
    this.#ended ??= { error };
    this.#wake();
  }

  #wake(): void {
    const sender = this.#sender;
    const receiver = this.#receiver;
    this.#sender = undefined;
    this.#receiver = undefined;
    sender?.();
    receiver?.();
  }
}
