// Where the lines of a conversation come from: a terminal, with keys that edit them, or a pipe.

import { createInterface, type Interface } from 'node:readline';
import { Writable } from 'node:stream';
import type { ReadStream, WriteStream } from 'node:tty';
import { type InputName, STDIN } from '../../files/input.js';
import { readLines, textOfLine } from '../../files/text-file.js';

export type LineEvent =
  | { readonly kind: 'line'; readonly text: string }
  /** Ctrl-C, before anything was entered of a line or after. */
  | { readonly kind: 'interrupted'; readonly lineBegun: boolean }
  | { readonly kind: 'end' };

export interface LineInput {
  next(prompt: string): Promise<LineEvent>;
  /** While `work` is done, keys show nothing, and Ctrl-C and Ctrl-D stop it. */
  during<T>(work: Promise<T>, stop: () => void): Promise<T>;
  close(): void;
}

/** Each line a message, whoever writes them. */
export class PipedLines implements LineInput {
  readonly #lines: AsyncGenerator<string, void>;

  constructor(signal: AbortSignal) {
    this.#lines = linesOf({ path: STDIN, option: 'chat', signal });
  }

  async next(): Promise<LineEvent> {
    const { value, done } = await this.#lines.next();
    return done ? { kind: 'end' } : { kind: 'line', text: value };
  }

  during<T>(work: Promise<T>): Promise<T> {
    return work;
  }

  close(): void {
    // An open input would keep the process; one that was torn off has nothing more to say.
    this.#lines.return().catch(() => undefined);
  }
}

async function* linesOf(input: InputName): AsyncGenerator<string, void> {
  for await (const lines of readLines(input)) for (const line of lines) yield textOfLine(line, input);
}

/** Lines with a history, as readline has them; what is typed ahead waits. */
export class TerminalLines implements LineInput {
  readonly #interface: Interface;
  readonly #screen: Screen;
  readonly #ahead: LineEvent[] = [];
  #waiting: ((event: LineEvent) => void) | undefined;
  #stop: (() => void) | undefined;

  constructor(input: ReadStream, output: WriteStream) {
    this.#screen = new Screen(output);
    this.#interface = createInterface({
      input,
      output: this.#screen,
      terminal: true,
      historySize: 1000,
      removeHistoryDuplicates: true,
    });
    this.#interface.on('line', (text) => this.#give({ kind: 'line', text }));
    this.#interface.on('SIGINT', () => this.#interrupt());
    // Node pauses the input when the program comes to the foreground again, and without input it would end.
    this.#interface.on('SIGCONT', () => this.#interface.prompt(true));
    const end = () => {
      this.#stop?.();
      this.#give({ kind: 'end' });
    };
    this.#interface.on('close', end);
    // A terminal that is gone cannot be set right either.
    this.#interface.on('error', end);
  }

  next(prompt: string): Promise<LineEvent> {
    const ahead = this.#ahead.shift();
    if (ahead) return Promise.resolve(ahead);
    this.#interface.setPrompt(prompt);
    this.#interface.prompt(true);
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  async during<T>(work: Promise<T>, stop: () => void): Promise<T> {
    this.#screen.isMuted = true;
    this.#stop = stop;
    // Pressed with the key that entered the message, before there was anything to stop.
    const pressed = this.#ahead.findIndex(({ kind }) => kind === 'interrupted');
    if (pressed >= 0) {
      this.#ahead.splice(0, pressed + 1);
      stop();
    }
    try {
      return await work;
    } finally {
      this.#stop = undefined;
      this.#screen.isMuted = false;
    }
  }

  close(): void {
    this.#interface.close();
  }

  #interrupt(): void {
    if (this.#stop) this.#stop();
    else {
      const lineBegun = this.#interface.line !== '';
      this.#screen.write('\n');
      this.#screen.isMuted = true;
      this.#interface.write(null, { ctrl: true, name: 'e' });
      this.#interface.write(null, { ctrl: true, name: 'u' });
      this.#screen.isMuted = false;
      this.#give({ kind: 'interrupted', lineBegun });
    }
  }

  #give(event: LineEvent): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting) waiting(event);
    else this.#ahead.push(event);
  }
}

/** The terminal as readline writes to it: what is typed beside an answer is not shown in it. */
class Screen extends Writable {
  readonly #output: WriteStream;
  isMuted = false;

  constructor(output: WriteStream) {
    super({ decodeStrings: false });
    this.#output = output;
    output.on('resize', () => this.emit('resize'));
  }

  readonly isTTY = true;

  get columns(): number {
    return this.#output.columns;
  }

  override _write(
    text: string | Buffer,
    _encoding: BufferEncoding,
    done: (error?: Error | null) => void,
  ): void {
    if (this.isMuted) done();
    else this.#output.write(text, () => done());
  }
}
