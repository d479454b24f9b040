// Ctrl-C, SIGTERM, SIGHUP, a closed stdout: work stops within a second, whatever it is doing at the moment.

import { constants } from 'node:os';
import { isatty } from 'node:tty';
import { ERROR_CODES, OperatingError, signalTold, signalWatch } from '../../offload/index.js';

/** Whoever read stdout has seen enough (`| head`): no error. */
export class StdoutClosed extends Error {}

/** Closing waits for what drives and kernels have begun; if that takes longer, the process just ends. */
const PATIENCE_MS = 600;
/** Where JavaScript itself cannot run meanwhile, as in one long call, the addon ends the process. */
const NATIVE_PATIENCE_MS = 650;

const SIGNALS = { SIGINT: 'Ctrl-C', SIGTERM: 'SIGTERM', SIGHUP: 'SIGHUP' } as const;
type SignalName = keyof typeof SIGNALS;
const NAMES = Object.keys(SIGNALS) as SignalName[];

export class Interrupt {
  readonly #controller = new AbortController();
  readonly #stops = new Set<() => unknown>();
  readonly #beforeExit: (reason: unknown) => void;
  #ignoreStdout = false;
  /** What the next signal does instead of ending all work. */
  #first: (() => void) | undefined;
  readonly #terminals = [0, 1, 2].filter((descriptor) => isatty(descriptor));

  /** @param beforeExit leaves the terminal in order and says why; must not wait */
  constructor(beforeExit: (reason: unknown) => void) {
    this.#beforeExit = beforeExit;
    process.stdout.on('error', (error: NodeJS.ErrnoException) => this.#onStdoutError(error));
    // Nobody is left to be told.
    process.stderr.on('error', () => undefined);
  }

  /**
   * From now on signals are handled, and end the process though JavaScript is busy; before, they end it by themselves. No
   * signal may come between the two kinds of handlers, as JavaScript might not hear of it before long work: so the addon
   * is loaded before.
   * @param sentenceOf what to say of a reason
   * @param natively the addon ends the process where JavaScript does not; false where that may have work left to do
   */
  watch(sentenceOf: (reason: OperatingError) => string, natively = true): void {
    const watchSignals = natively ? signalWatch() : undefined;
    const erase = process.stderr.isTTY ? '\r\x1b[2K' : '';
    const texts = NAMES.map((name) => [
      constants.signals[name],
      `${erase}${sentenceOf(interruptedBy(name))}`,
    ]);
    for (const name of NAMES) process.on(name, () => this.#onSignal(name));
    watchSignals?.(Object.fromEntries(texts), NATIVE_PATIENCE_MS, ERROR_CODES.INTERRUPTED.exitStatus);
  }

  /** Why the program ends has been said. */
  told(): void {
    signalTold();
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

  /** Resolves at the first signal, which then ends nothing; the next one does. @param sentence what is said of it */
  firstSignal(sentence: string): Promise<void> {
    return new Promise((resolve) => {
      this.#first = () => {
        this.#first = undefined;
        process.stderr.write(`${sentence}\n`);
        resolve();
      };
      this.onStop(resolve);
    });
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

  /** Where the terminal is gone, Node would abort as it sets it right at its end: a second signal ends the process before. */
  endHungUp(): void {
    if (this.#terminals.every((descriptor) => isatty(descriptor))) return;
    for (let signals = 0; signals < 2; signals++) process.kill(process.pid, 'SIGHUP');
  }

  #onSignal(name: SignalName): void {
    if (this.#first) {
      this.#first();
      return;
    }
    if (this.signal.aborted) this.#exit();
    setTimeout(() => this.#exit(), PATIENCE_MS).unref();
    this.#stop(interruptedBy(name));
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
    this.endHungUp();
    process.exit(ERROR_CODES.INTERRUPTED.exitStatus);
  }
}

function interruptedBy(name: SignalName): OperatingError {
  return new OperatingError('INTERRUPTED', `stopped by ${SIGNALS[name]}`);
}
