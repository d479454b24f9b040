// Messages from lines: one each, unless a line ends with a backslash or stands within three quotation marks.

const QUOTES = '"""';

export class MessageLines {
  #lines: string[] = [];
  #quoted = false;

  /** More lines belong to the message. */
  get isOpen(): boolean {
    return this.#quoted || this.#lines.length > 0;
  }

  /** The message, if this line ends it. */
  push(line: string): string | undefined {
    if (this.#quoted) return this.#pushQuoted(line);
    if (this.#lines.length === 0 && line.trimStart().startsWith(QUOTES)) {
      this.#quoted = true;
      const rest = line.trimStart().slice(QUOTES.length);
      // Nothing behind the marks is no line of its own.
      return rest === '' ? undefined : this.#pushQuoted(rest);
    }
    if (line.endsWith('\\')) {
      this.#lines.push(line.slice(0, -1));
      return undefined;
    }
    this.#lines.push(line);
    return this.end();
  }

  /** What is there of a message that nothing more comes for; undefined where that is nothing. */
  end(): string | undefined {
    const text = this.isOpen ? this.#lines.join('\n') : undefined;
    this.clear();
    return text;
  }

  clear(): void {
    this.#lines = [];
    this.#quoted = false;
  }

  #pushQuoted(line: string): string | undefined {
    if (!line.trimEnd().endsWith(QUOTES)) {
      this.#lines.push(line);
      return undefined;
    }
    const last = line.trimEnd().slice(0, -QUOTES.length);
    if (last !== '') this.#lines.push(last);
    return this.end() ?? '';
  }
}
