// Newcomers of several clients: next is whoever has been given least, as start-time fair queueing has it.

import { present } from '../../offload/index.js';
import { FirstCome } from './first-come.js';
import { type Sequence, turnOf } from './sequence.js';

interface Client {
  readonly waiting: FirstCome<Sequence>;
  /** Tokens that its requests may have come to, counted from where everybody stood when it came. */
  given: number;
}

export class FairLine {
  readonly #clients = new Map<string, Client>();
  #size = 0;
  /** Where the client stood whose request began last: nobody who comes now is before that. */
  #floor = 0;
  #next: Client | undefined;

  get size(): number {
    return this.#size;
  }

  get first(): Sequence | undefined {
    this.#next ??= this.#leastGiven();
    return this.#next?.waiting.first;
  }

  /** As its client's last one. */
  add(sequence: Sequence): void {
    const name = turnOf(sequence).client;
    let client = this.#clients.get(name);
    if (!client) {
      client = { waiting: new FirstCome(), given: this.#floor };
      this.#clients.set(name, client);
    }
    if (client.waiting.size === 0) {
      client.given = Math.max(client.given, this.#floor);
      this.#next = undefined;
    }
    client.waiting.add(sequence);
    this.#size++;
  }

  /** Its client is given what it may come to. False where it is not here. */
  begin(sequence: Sequence): boolean {
    const client = this.#clients.get(turnOf(sequence).client);
    if (!this.delete(sequence)) return false;
    const { given } = present(client, 'client');
    this.#floor = Math.max(this.#floor, given);
    present(client, 'client').given = given + sequence.mostTokens;
    this.#next = undefined;
    this.#forget();
    return true;
  }

  /** False where it is not here. */
  delete(sequence: Sequence): boolean {
    const client = this.#clients.get(turnOf(sequence).client);
    if (!client?.waiting.delete(sequence)) return false;
    this.#size--;
    if (client === this.#next && client.waiting.size === 0) this.#next = undefined;
    return true;
  }

  *[Symbol.iterator](): Generator<Sequence, void> {
    for (const { waiting } of this.#clients.values()) yield* waiting;
  }

  #leastGiven(): Client | undefined {
    let least: Client | undefined;
    for (const client of this.#clients.values()) {
      if (client.waiting.size > 0 && (!least || client.given < least.given)) least = client;
    }
    return least;
  }

  /** Clients who would begin at the floor again need not be known. */
  #forget(): void {
    if (this.#clients.size < FEW_CLIENTS) return;
    for (const [name, { waiting, given }] of this.#clients) {
      if (waiting.size === 0 && given <= this.#floor) this.#clients.delete(name);
    }
  }
}

/** Below this they are not worth the looking. */
const FEW_CLIENTS = 64;
