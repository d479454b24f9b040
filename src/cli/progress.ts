// Progress of long work: one line at the bottom of a terminal, or a log record now and then where there is none.

import type { Logger } from 'pino';

/** The part of process.stderr that is used, so that tests can stand in for a terminal. */
export interface TextOutput {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const ERASE_LINE = '\r\x1b[2K';

type Environment = Readonly<Record<string, string | undefined>>;

/** Owns the bottom line of the terminal. The cursor stays visible, so nothing needs restoring after a crash. */
export class StatusLine {
  readonly #output: TextOutput;
  readonly #environment: Environment;
  #shown = '';

  /** @param environment says what the terminal can do, and what its user wants */
  constructor(output: TextOutput, environment: Environment = process.env) {
    this.#output = output;
    this.#environment = environment;
  }

  get isTerminal(): boolean {
    return this.#output.isTTY === true;
  }

  /** Lines can be taken back; on a dumb terminal they only follow each other. */
  get erases(): boolean {
    return this.isTerminal && this.#environment.TERM !== 'dumb';
  }

  /** https://no-color.org: any value but an empty one. */
  get hasColours(): boolean {
    return this.erases && !this.#environment.NO_COLOR;
  }

  show(text: string): void {
    if (!this.erases) return;
    // A line that wraps could not be erased.
    const line = text.slice(0, (this.#output.columns || 80) - 1);
    if (line === this.#shown) return;
    this.#output.write(ERASE_LINE + line);
    this.#shown = line;
  }

  clear(): void {
    if (this.#shown === '') return;
    this.#output.write(ERASE_LINE);
    this.#shown = '';
  }

  /** Writes whole lines above the status. */
  writeAbove(text: string): void {
    const line = this.#shown;
    this.clear();
    this.#output.write(text);
    if (line !== '') this.show(line);
  }
}

const REFRESH_MS = 200;
const LOG_EVERY_MS = 10_000;

/** Says from time to time how far the work is. One piece of work at a time. */
export class Progress {
  readonly #status: StatusLine;
  readonly #log: Logger;
  #timer: NodeJS.Timeout | undefined;

  constructor(status: StatusLine, log: Logger) {
    this.#status = status;
    this.#log = log;
  }

  /** @param describe how far the work is, in a few words */
  start(describe: () => string): void {
    this.stop();
    const erases = this.#status.erases;
    const tell = () => (erases ? this.#status.show(describe()) : this.#log.info(describe()));
    this.#timer = setInterval(tell, erases ? REFRESH_MS : LOG_EVERY_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#status.clear();
  }

  /** Shows progress while `work` runs. */
  async during<T>(describe: () => string, work: Promise<T>): Promise<T> {
    this.start(describe);
    try {
      return await work;
    } finally {
      this.stop();
    }
  }
}
