// Text that a user names: UTF-8 or nothing, in pieces or line by line, with errors that name the file.

import { OperatingError } from '../../offload/index.js';
import { type InputName, readPieces, shownName } from './input.js';

/** A longer line is no text: binary data and devices have no line ends. */
const MOST_LINE_BYTES = 64 << 20;
/** A byte order mark within a text is a character. */
const LINES = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const NEWLINE = 10;
const RETURN = 13;

/** The text piece by piece, without a byte order mark. Throws NOT_FOUND or BAD_INPUT. */
export async function* readTextPieces(input: InputName): AsyncGenerator<string, void> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let isFirst = true;
  for await (const piece of readPieces(input)) {
    if (isFirst) refuseUtf16(piece, input);
    isFirst = false;
    refuseNul(piece, input);
    const text = decoded(() => decoder.decode(piece, { stream: true }), input);
    if (text !== '') yield text;
  }
  const rest = decoded(() => decoder.decode(), input);
  if (rest !== '') yield rest;
}

/** The whole text. Throws like `readTextPieces`, and BAD_INPUT beyond `mostCharacters`. */
export async function readTextFile(input: InputName, mostCharacters: number): Promise<string> {
  const pieces: string[] = [];
  let length = 0;
  for await (const piece of readTextPieces(input)) {
    length += piece.length;
    if (length > mostCharacters) {
      throw badText(input, `has more than the ${mostCharacters} characters that are taken: cut it`);
    }
    pieces.push(piece);
  }
  return pieces.join('');
}

export interface RawLine {
  /** The line's number, from 1. */
  readonly number: number;
  /** Where its first byte lies in the input. */
  readonly offset: number;
  /** The line without its end; valid until the next line is asked for. */
  readonly bytes: Buffer;
}

/** Lines as bytes, whatever their ends (`\n`, `\r\n`); a byte order mark is left out. Throws like `readTextPieces`. */
export async function* readLines(input: InputName): AsyncGenerator<readonly RawLine[], void> {
  let [number, offset] = [0, 0];
  let rest: Buffer[] = [];
  let restBytes = 0;
  const lineOf = (bytes: Buffer): RawLine => {
    number++;
    const mark = number === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
    const end = bytes.at(-1) === RETURN ? bytes.length - 1 : bytes.length;
    return { number, offset: offset + mark, bytes: bytes.subarray(mark, end) };
  };
  for await (const piece of readPieces(input)) {
    if (offset === 0 && restBytes === 0) refuseUtf16(piece, input);
    const lines: RawLine[] = [];
    let start = 0;
    for (let end = piece.indexOf(NEWLINE); end >= 0; end = piece.indexOf(NEWLINE, start)) {
      const own = piece.subarray(start, end);
      const whole = restBytes > 0 ? Buffer.concat([...rest, own]) : own;
      lines.push(lineOf(whole));
      offset += whole.length + 1;
      [rest, restBytes, start] = [[], 0, end + 1];
    }
    if (start < piece.length) rest.push(piece.subarray(start));
    restBytes += piece.length - start;
    if (restBytes > MOST_LINE_BYTES) {
      throw badText(
        input,
        `has a line of more than ${MOST_LINE_BYTES >> 20} MiB after line ${number}: give text, a prompt a line`,
      );
    }
    if (lines.length > 0) yield lines;
  }
  if (restBytes > 0) yield [lineOf(Buffer.concat(rest))];
}

/** A line's text. Throws BAD_INPUT. */
export function textOfLine({ bytes, number }: Pick<RawLine, 'bytes' | 'number'>, input: InputName): string {
  const where = ` in line ${number}`;
  refuseNul(bytes, input, where);
  return decoded(() => LINES.decode(bytes), input, where);
}

function decoded(decode: () => string, input: InputName, where = ''): string {
  try {
    return decode();
  } catch (error) {
    throw badText(input, `is not UTF-8 text${where}: convert it`, error);
  }
}

function refuseUtf16(piece: Buffer, input: InputName): void {
  const [first, second] = piece;
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff)) {
    throw badText(input, 'is not UTF-8 text but UTF-16: convert it');
  }
}

/** Text holds no NUL; binary data and UTF-16 without a byte order mark do. */
function refuseNul(bytes: Buffer, input: InputName, where = ''): void {
  if (bytes.includes(0)) throw badText(input, `has a zero byte${where}, as text has none: give UTF-8 text`);
}

/** The error for an input that is no text as wanted; `problem` goes on after the file's name. */
export function badText({ path, option }: InputName, problem: string, cause?: unknown): OperatingError {
  return new OperatingError('BAD_INPUT', `${option}: ${shownName(path)} ${problem}`, { cause });
}
