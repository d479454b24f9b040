// Templates as tokens, by Jinja's own rules for whitespace: trim_blocks and lstrip_blocks are on, as in transformers, and
// one line end at the very end of the template is not part of it.

import { TemplateSyntaxError, UnsupportedError } from './errors.js';
import { stripEnd, WHITESPACE } from './text.js';

export interface Token {
  readonly kind:
    | 'text'
    | 'output-begin'
    | 'output-end'
    | 'block-begin'
    | 'block-end'
    | 'name'
    | 'string'
    | 'integer'
    | 'float'
    | 'operator'
    | 'end';
  /** Strings without quotes and escapes. */
  readonly text: string;
  readonly line: number;
}

const SPACE = `[${WHITESPACE}]`;
/** `raw` comes first: within it nothing else counts. */
const BEGIN = new RegExp(
  `(?<raw>\\{%(?<rawSign>[-+]?)${SPACE}*raw${SPACE}*(?:-%\\}${SPACE}*|%\\}))|(?<begin>\\{\\{|\\{#|\\{%)(?<sign>[-+]?)`,
  'g',
);
const COMMENT_END = new RegExp(`\\+#\\}|-#\\}${SPACE}*|#\\}\\n?`, 'g');
const RAW_END = new RegExp(
  `\\{%(?<sign>[-+]?)${SPACE}*endraw${SPACE}*(?:\\+%\\}|-%\\}${SPACE}*|%\\}\\n?)`,
  'g',
);
const BLOCK_END = new RegExp(`\\+%\\}|-%\\}${SPACE}*|%\\}\\n?`, 'y');
const OUTPUT_END = new RegExp(`-\\}\\}${SPACE}*|\\}\\}`, 'y');
const SKIPPED = new RegExp(`${SPACE}+`, 'y');
const FLOAT = /(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy;
const INTEGER = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy;
const NAME = /[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}_]*/uy;
const STRING = /'[^'\\]*(?:\\[\s\S][^'\\]*)*'|"[^"\\]*(?:\\[\s\S][^"\\]*)*"/y;
const OPERATOR = /\/\/|\*\*|==|!=|>=|<=|[-+/*%~[\](){}<>=.:|,;]/y;

const CLOSERS: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' };

/** Throws TemplateSyntaxError. */
export function tokenize(template: string): Token[] {
  return new Lexer(template).run();
}

class Lexer {
  readonly #source: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  #line = 1;
  /** The last thing that was read ended a line; so does the beginning. */
  #lineStarts = true;

  constructor(template: string) {
    const source = template.replace(/\r\n|\r/g, '\n');
    this.#source = source.endsWith('\n') ? source.slice(0, -1) : source;
  }

  run(): Token[] {
    const source = this.#source;
    for (;;) {
      BEGIN.lastIndex = this.#at;
      const found = BEGIN.exec(source);
      if (!found) break;
      const { raw, rawSign = '', begin, sign = '' } = found.groups ?? {};
      const text = source.slice(this.#at, found.index);
      this.#push('text', this.#before(text, raw === undefined ? sign : rawSign, begin === '{{'));
      this.#advance(text.length + found[0].length);
      if (raw !== undefined) this.#rawText();
      else if (begin === '{#') this.#comment();
      else if (begin === '{%') this.#inside('block');
      else this.#inside('output');
    }
    this.#push('text', source.slice(this.#at));
    this.#push('end', '');
    return this.#tokens;
  }

  #push(kind: Token['kind'], text: string): void {
    if (kind !== 'text' || text !== '') this.#tokens.push({ kind, text, line: this.#line });
  }

  #advance(length: number): void {
    const passed = this.#source.slice(this.#at, this.#at + length);
    this.#at += length;
    this.#line += passed.split('\n').length - 1;
    this.#lineStarts = passed.endsWith('\n');
  }

  /** The text before a tag: `-` takes all whitespace from its end, and a tag alone on its line takes its indentation. */
  #before(text: string, sign: string, isOutput: boolean): string {
    if (sign === '-') return stripEnd(text);
    if (sign === '+' || isOutput) return text;
    const lineStart = text.lastIndexOf('\n') + 1;
    const indentation = text.slice(lineStart);
    const alone = (lineStart > 0 || this.#lineStarts) && stripEnd(indentation) === '';
    return alone ? text.slice(0, lineStart) : text;
  }

  #comment(): void {
    COMMENT_END.lastIndex = this.#at;
    const end = COMMENT_END.exec(this.#source);
    if (!end) throw new TemplateSyntaxError('a comment has no end', this.#line);
    this.#advance(end.index + end[0].length - this.#at);
  }

  #rawText(): void {
    RAW_END.lastIndex = this.#at;
    const end = RAW_END.exec(this.#source);
    if (!end) throw new TemplateSyntaxError('raw has no endraw', this.#line);
    const text = this.#source.slice(this.#at, end.index);
    this.#push('text', this.#before(text, end.groups?.sign ?? '', false));
    this.#advance(end.index + end[0].length - this.#at);
  }

  /** Tokens up to the end of a tag; braces that are open keep `}}` from ending it. */
  #inside(tag: 'block' | 'output'): void {
    this.#push(`${tag}-begin`, '');
    const open: string[] = [];
    const end = tag === 'block' ? BLOCK_END : OUTPUT_END;
    for (;;) {
      if (this.#match(SKIPPED) !== undefined) continue;
      if (open.length === 0 && this.#match(end) !== undefined) break;
      if (this.#at >= this.#source.length) throw new TemplateSyntaxError(`a tag has no end`, this.#line);
      this.#expressionToken(open);
    }
    this.#push(`${tag}-end`, '');
  }

  #expressionToken(open: string[]): void {
    const line = this.#line;
    const add = (kind: Token['kind'], text: string) => this.#tokens.push({ kind, text, line });
    const afterDot = this.#source[this.#at - 1] === '.';
    const float = afterDot ? undefined : this.#match(FLOAT);
    if (float !== undefined) return void add('float', float.replaceAll('_', ''));
    const integer = this.#match(INTEGER);
    if (integer !== undefined) return void add('integer', integer.replaceAll('_', ''));
    const name = this.#match(NAME);
    if (name !== undefined) return void add('name', name.normalize('NFKC'));
    const string = this.#match(STRING);
    if (string !== undefined) return void add('string', unescaped(string.slice(1, -1), line));
    const operator = this.#match(OPERATOR);
    if (operator === undefined) {
      const character = String.fromCodePoint(this.#source.codePointAt(this.#at) ?? 0);
      throw new TemplateSyntaxError(`unexpected ${JSON.stringify(character)}`, line);
    }
    const closer = CLOSERS[operator];
    if (closer) open.push(closer);
    else if (')]}'.includes(operator) && open.pop() !== operator)
      throw new TemplateSyntaxError(`unexpected '${operator}'`, line);
    add('operator', operator);
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#source);
    if (found) this.#advance(found[0].length);
    return found?.[0];
  }
}

const SIMPLE_ESCAPES: Readonly<Record<string, string>> = {
  '\n': '',
  '\\': '\\',
  "'": "'",
  '"': '"',
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};

/** As Python's unicode-escape reads a string: what it does not know stays, with its backslash. */
function unescaped(text: string, line: number): string {
  if (!text.includes('\\')) return text;
  const pattern = /\\(?:([0-7]{1,3})|x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([\s\S]))/gu;
  return text.replace(pattern, (whole, octal, byte, short, long, other?: string) => {
    if (octal !== undefined) return String.fromCodePoint(Number.parseInt(octal, 8));
    const digits = byte ?? short ?? long;
    if (digits !== undefined) {
      const code = Number.parseInt(digits, 16);
      if (code > 0x10ffff) throw new TemplateSyntaxError(`there is no character ${whole}`, line);
      return String.fromCodePoint(code);
    }
    const character = other ?? '';
    if ('xuU'.includes(character)) throw new TemplateSyntaxError(`${whole} lacks digits`, line);
    if (character === 'N') throw new UnsupportedError('characters by their name (\\N{…})');
    // A backslash before a character beyond ASCII escapes its escape.
    const code = character.codePointAt(0) ?? 0;
    if (code > 127) return `\\${escapeName(code)}`;
    return SIMPLE_ESCAPES[character] ?? whole;
  });
}

function escapeName(code: number): string {
  const digits = code.toString(16);
  if (code < 0x100) return `x${digits.padStart(2, '0')}`;
  return code < 0x10000 ? `u${digits.padStart(4, '0')}` : `U${digits.padStart(8, '0')}`;
}
