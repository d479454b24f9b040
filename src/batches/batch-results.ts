// What has become of a batch's requests: a line each, in the file of results or in that of errors, once and whole.

import { OperatingError } from '../../offload/index.js';
import type { WholeReply } from '../api/reply.js';
import { JsonLinesFile } from '../files/json-lines-file.js';
import { outputTarget } from '../files/output-target.js';
import { dropDamaged, NO_LINES, readFinished } from '../files/result-lines.js';
import type { BadLine } from './batch-line.js';

export interface ResultPaths {
  readonly output: string;
  /** The same as `output` where errors go there too. */
  readonly errors: string;
}

export interface ResultOptions extends ResultPaths {
  /** Where the paths came from, for messages: an option, or what the server calls its store. */
  readonly option: string;
  /** Part of each line's id: results of another batch are told apart by it. */
  readonly key: string;
  readonly requests: number;
  /** Whatever is there may go. */
  readonly overwrite?: boolean;
}

const BEGINS = '{"id":"batch_req_';

export class BatchResults {
  readonly #key: string;
  readonly #output: JsonLinesFile;
  readonly #errors: JsonLinesFile;
  readonly #done: Uint8Array;
  #completed = 0;
  #failed = 0;

  /** Goes on with what the files have. Throws BAD_INPUT where that belongs to another batch, or WRITE_FAILED. */
  constructor(options: ResultOptions) {
    const { output, errors, requests, key } = options;
    this.#key = key;
    this.#done = new Uint8Array(requests);
    this.#output = this.#open(output, options, true);
    try {
      this.#errors = errors === output ? this.#output : this.#open(errors, options, false);
    } catch (error) {
      this.#output.close();
      throw error;
    }
  }

  get completed(): number {
    return this.#completed;
  }

  get failed(): number {
    return this.#failed;
  }

  isDone(index: number): boolean {
    return this.#done[index] === 1;
  }

  /** What its request is called, among all batches. */
  nameOf(index: number): string {
    return `${this.#key}_${index}`;
  }

  /** Throws WRITE_FAILED, and the files have what they had. @param json the reply's body, where it is written already */
  add(
    index: number,
    customId: string,
    { status, body }: WholeReply,
    json: Buffer = Buffer.from(JSON.stringify(body)),
  ): void {
    const failed = status >= 400;
    const open = (begun: object) => JSON.stringify(begun).slice(0, -1);
    const response = open({ status_code: status, request_id: `req_${this.nameOf(index)}` });
    const before = `${open({ ...this.#idOf(index), custom_id: customId })},"response":${response},"body":`;
    const line = Buffer.concat([Buffer.from(before), json, Buffer.from('},"error":null}')]);
    (failed ? this.#errors : this.#output).writeLine(line);
    this.#count(index, failed);
  }

  /** @param line where it stands in the input, from 1 */
  addBad(index: number, { customId, code, message }: BadLine, line: number): void {
    const error = { code, message: `line ${line}: ${message}`, line };
    this.#errors.write({ ...this.#idOf(index), custom_id: customId, response: null, error });
    this.#count(index, true);
  }

  /** Throws WRITE_FAILED where the system says only now that there was no space. */
  close(): void {
    try {
      this.#output.close();
    } finally {
      if (this.#errors !== this.#output) this.#errors.close();
    }
  }

  #idOf(index: number): { id: string } {
    return { id: `batch_req_${this.nameOf(index)}` };
  }

  #count(index: number, failed: boolean): void {
    this.#done[index] = 1;
    if (failed) this.#failed++;
    else this.#completed++;
  }

  #open(path: string, { option, overwrite = false }: ResultOptions, isOutput: boolean): JsonLinesFile {
    const file = new JsonLinesFile(path, option);
    // Devices and pipes have nothing to go on with.
    if (overwrite || outputTarget(path).kind !== 'file') {
      file.open();
      return file;
    }
    const reading = {
      begins: BEGINS,
      refuse: (problem: string) => new OperatingError('BAD_INPUT', `${option}: ${problem}`),
    };
    const finished = readFinished(path, reading, ({ id, response }) => {
      const index = this.#indexOf(id);
      if (index === undefined) return 'is of another batch';
      // Whatever comes twice was written once: the first one counts.
      if (this.isDone(index)) return undefined;
      this.#count(index, !isOutput || !isSuccess(response));
      return index;
    });
    const { keptBytes, fileBytes } = dropDamaged(path, finished, option);
    file.open(keptBytes, finished === NO_LINES ? undefined : fileBytes);
    return file;
  }

  #indexOf(id: unknown): number | undefined {
    const [, key, index] =
      /^batch_req_([0-9a-zA-Z]+)_(\d{1,15})$/.exec(typeof id === 'string' ? id : '') ?? [];
    const place = Number(index);
    return key === this.#key && place < this.#done.length ? place : undefined;
  }
}

function isSuccess(response: unknown): boolean {
  if (typeof response !== 'object' || response === null || !('status_code' in response)) return false;
  return Number(response.status_code) < 400;
}
