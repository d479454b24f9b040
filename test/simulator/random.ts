// Random numbers from a seed: the only source of chance in the simulator, so that a seed is a repeatable run.

/** Small fast counter generator (sfc32). */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number) {
    this.#a = seed | 0;
    this.#b = Math.imul(seed, 0x9e3779b1) | 0;
    this.#c = 0x2545f491;
    for (let i = 0; i < 12; i++) this.bits();
  }

  /** 32 random bits as a signed integer. */
  bits(): number {
    const result = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (this.#c << 21) | (this.#c >>> 11);
    this.#c = (this.#c + result) | 0;
    return result;
  }

  /** In [0, 1). */
  unit(): number {
    return (this.bits() >>> 0) / 2 ** 32;
  }

  /** A whole number from `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + Math.floor(this.unit() * (high - low + 1));
  }

  chance(probability: number): boolean {
    return this.unit() < probability;
  }

  /** Log-uniform in [low, high): rates and durations differ by factors, not by summands. */
  spread(low: number, high: number): number {
    return low * (high / low) ** this.unit();
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.between(0, items.length - 1)];
    if (item === undefined) throw new Error('nothing to pick from');
    return item;
  }

  shuffled<T>(items: readonly T[]): T[] {
    const keyed = items.map((item) => ({ item, key: this.unit() }));
    return keyed.sort((a, b) => a.key - b.key).map(({ item }) => item);
  }

  /** A generator of its own, so that one consumer's draws do not shift another's. */
  fork(): Random {
    return new Random(this.bits());
  }
}
