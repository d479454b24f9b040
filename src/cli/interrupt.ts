// Ctrl-C, SIGTERM, a closed stdout: work stops within a second, whatever it is doing at the moment.

import { ERROR_CODES, OperatingError } from '../../offload/index.js';

/** Whoever read stdout has seen enough (`| head`): no error. */
export class StdoutClosed extends Error {}

/** Closing waits for what drives and kernels have begun; if that takes longer, the process just ends. */
const PATIENCE_MS = 800;

export class Interrupt {
  readonly #controller = new AbortController();
  readonly #stops = new Set<() => unknown>();
  readonly #beforeExit: (reason: unknown) => void;
  #ignoreStdout = false;

  /** @param beforeExit leaves the terminal in order and says why; must not wait */
  constructor(beforeExit: (reason: unknown) => void) {
    this.#beforeExit = beforeExit;
    process.on('SIGINT', () => this.#onSignal('Ctrl-C'));
    process.on('SIGTERM', () => this.#onSignal('SIGTERM'));
    process.stdout.on('error', (error: NodeJS.ErrnoException) => this.#onStdoutError(error));
    // Nobody is left to be told.
    process.stderr.on('error', () => undefined);
  }

  /** Aborted with the error that the program is to end with. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Calls `stop` on interruption, until the returned function is called. */
  onStop(stop: () => unknown): () => void {
    this.#stops.add(stop);
    return () => this.#stops.delete(stop);
  }

  /** Results go to a file as well, so a closed stdout ends nothing. */
  ignoreClosedStdout(): void {
    this.#ignoreStdout = true;
  }

  /** Resolves when all that went to stdout is there, or failed, of which `signal` then tells; or on interruption. */
  stdoutWritten(): Promise<void> {
    return new Promise((resolve) => {
      this.onStop(resolve);
      // Errors of a write are told after its callback.
      process.stdout.write('', () => setImmediate(resolve));
    });
  }

  #onSignal(name: string): void {
    if (this.signal.aborted) this.#exit();
    setTimeout(() => this.#exit(), PATIENCE_MS).unref();
    this.#stop(new OperatingError('INTERRUPTED', `stopped by ${name}`));
  }

  #onStdoutError(error: NodeJS.ErrnoException): void {
    if (error.code !== 'EPIPE') {
      this.#stop(
        new OperatingError('WRITE_FAILED', `stdout cannot be written: ${error.message}`, { cause: error }),
      );
    } else if (!this.#ignoreStdout) {
      this.#stop(new StdoutClosed());
    }
  }

  #stop(reason: Error): void {
    if (this.signal.aborted) return;
    this.#controller.abort(reason);
    for (const stop of this.#stops) stop();
  }

  #exit(): never {
    this.#beforeExit(this.signal.reason);
    process.exit(ERROR_CODES.INTERRUPTED.exitStatus);
  }
}
