// Company for the first request: where a pass is dear, it waits a while for others to join the same one.

export class Gathering {
  readonly #mostMs: number;
  #wake: () => void = () => undefined;

  /** @param mostMs how long the first one waits at most; 0 for not at all */
  constructor(mostMs: number) {
    this.#mostMs = mostMs;
  }

  /** Resolves when `isComplete` says so, or after that time. */
  async wait(isComplete: () => boolean): Promise<void> {
    if (this.#mostMs <= 0) return;
    const untilMs = performance.now() + this.#mostMs;
    for (let left = this.#mostMs; left > 0 && !isComplete(); left = untilMs - performance.now()) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** Somebody has come or left: it may be complete. */
  look(): void {
    this.#wake();
  }
}
