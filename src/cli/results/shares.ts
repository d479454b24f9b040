// The shares of a run in a folder: whether they are of one run, have every text once, and where each text lies in them.

import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { counted, OperatingError, present } from '../../../offload/index.js';
import { systemCode } from '../../files/failure-reason.js';
import { type JsonObject, parseJsonObject, reason } from '../../files/json-file.js';
import { firstDifference, type RunSettings, settingsPath } from './file.js';
import { linesOf, parseRecord } from './lines.js';
import { countIn, isCount, isWhole } from './resume.js';
import { otherWeights, weightsFromJson } from './weight-record.js';

export interface ShareFile {
  readonly path: string;
  readonly settings: RunSettings;
}

const SETTINGS_END = settingsPath('');
/** Each of its own, or nothing that a text depends on. */
const OWN_SETTINGS = ['shard', 'weights'];

/** In the order of their names. Throws NOT_FOUND where there is no such folder, or BAD_INPUT. */
export function sharesIn(folder: string): readonly ShareFile[] {
  const names = namesIn(folder).filter((name) => name.endsWith(SETTINGS_END) && name !== SETTINGS_END);
  if (names.length === 0) {
    throw badShares(
      `${folder} has no shares: it is the folder of files that were made with --shard and --output, each with its ` +
        `settings in a file beside it that ends in ${SETTINGS_END}`,
    );
  }
  return names.sort().map((name) => {
    const path = join(folder, name.slice(0, -SETTINGS_END.length));
    return { path, settings: readSettingsFile(join(folder, name)) };
  });
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    throw new OperatingError('NOT_FOUND', `${folder} cannot be read: ${reason(error)}`, { cause: error });
  }
}

function readSettingsFile(path: string): RunSettings {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new OperatingError('NOT_FOUND', `${path} cannot be read: ${reason(error)}`, { cause: error });
  }
  return parseJsonObject(text, path, 'BAD_INPUT');
}

/** What all shares have in common. Throws BAD_INPUT, with what differs, where they are not of one run. */
export function commonSettings(shares: readonly ShareFile[]): RunSettings {
  const first = present(shares[0], 'share');
  const weights = weightsFromJson(first.settings.weights);
  for (const { path, settings } of shares.slice(1)) {
    const other = firstDifference(first.settings, settings, OWN_SETTINGS);
    if (other) {
      throw badShares(
        `${first.path} and ${path} are not of one run: their ${other.name} is ${other.theirs} and ${other.ours}; make one of ` +
          'them again with the options of the other',
      );
    }
    const own = weightsFromJson(settings.weights);
    const difference = weights && own ? otherWeights(weights, own) : 'what was kept of them is damaged';
    if (difference === undefined) continue;
    throw badShares(`${first.path} and ${path} were made with other weights: ${difference}`);
  }
  const { shard: _, ...common } = first.settings;
  return common;
}

/** Where the text of each place lies. */
export class TextIndex {
  readonly #shares: readonly ShareFile[];
  readonly #samples: number;
  /** By place: the number of its share from 1, 0 where there is no text; and its line there. */
  readonly #share: Uint32Array;
  readonly #offset: Float64Array;
  readonly #bytes: Uint32Array;
  #found = 0;

  /** @param settings as `commonSettings` gives them */
  constructor(shares: readonly ShareFile[], settings: RunSettings) {
    const samples = settings.num_samples;
    const prompts = countIn(settings.prompts);
    if (!isCount(samples) || !isCount(prompts)) {
      const { path } = present(shares[0], 'share');
      throw badShares(`${settingsPath(path)} does not say of how many prompts it is: make the share again`);
    }
    this.#shares = shares;
    this.#samples = samples;
    this.#share = new Uint32Array(prompts * samples);
    this.#offset = new Float64Array(prompts * samples);
    this.#bytes = new Uint32Array(prompts * samples);
  }

  get length(): number {
    return this.#share.length;
  }

  get found(): number {
    return this.#found;
  }

  /** Enters every line, in steps between which others may run. Throws BAD_INPUT with the line that is wrong. */
  *read(): Generator<void, void> {
    for (const [number, { path, settings }] of this.#shares.entries()) {
      // A share that has no prompts has no texts, and may have no file.
      if (!statSync(path, { throwIfNoEntry: false })) continue;
      let [offset, lineNumber] = [0, 0];
      for (const { line, isWhole: ends } of linesOf(path)) {
        lineNumber++;
        const where = `line ${lineNumber} of ${path}`;
        if (!ends) throw badShares(`${where} was cut off: ${againWith(settings)}`);
        const record = parseRecord(line);
        if (!record || !isWhole(record)) throw badShares(`${where} is damaged: ${againWith(settings)}`);
        const place = this.#placeOf(record, settings, where);
        const other = this.#share[place];
        if (other) throw this.#twice(place, where);
        this.#share[place] = number + 1;
        this.#offset[place] = offset;
        this.#bytes[place] = line.length + 1;
        this.#found++;
        offset += line.length + 1;
        if (lineNumber % 4096 === 0) yield;
      }
    }
  }

  #placeOf({ index, sample = 0 }: JsonObject, settings: RunSettings, where: string): number {
    if (!isCount(index) || !isCount(sample) || sample >= this.#samples) {
      throw badShares(`${where} has no index of a text: ${againWith(settings)}`);
    }
    const place = index * this.#samples + sample;
    if (place >= this.length) {
      throw badShares(`${where} has index ${index}, and there are ${this.length / this.#samples} prompts`);
    }
    const [own = 0, count = 1] = String(settings.shard ?? '0/1')
      .split('/')
      .map(Number);
    if (index % count === own) return place;
    throw badShares(`${where} has index ${index}, which does not belong to share ${settings.shard}`);
  }

  #twice(place: number, where: string): OperatingError {
    const path = present(this.#shares[(this.#share[place] ?? 0) - 1], 'share').path;
    let [offset, lineNumber] = [0, 1];
    for (const { line } of linesOf(path)) {
      if (offset >= (this.#offset[place] ?? 0)) break;
      offset += line.length + 1;
      lineNumber++;
    }
    return badShares(
      `${where} is the text of ${this.#name(place)}, which line ${lineNumber} of ${path} is as well: move the file away that ` +
        'does not belong to this run',
    );
  }

  #name(place: number): string {
    const index = Math.floor(place / this.#samples);
    return this.#samples === 1 ? `prompt ${index}` : `prompt ${index}, sample ${place % this.#samples}`;
  }

  /** Throws BAD_INPUT, with the first that is missing and whose it is. */
  checkComplete(): void {
    if (this.#found === this.length) return;
    const place = this.#share.indexOf(0);
    const index = Math.floor(place / this.#samples);
    const share = this.#shares.find(({ settings: { shard } }) => {
      const [own = 0, count = 1] = String(shard ?? '0/1')
        .split('/')
        .map(Number);
      return index % count === own;
    });
    const whose = share
      ? `${share.path} lacks it: ${againWith(share.settings)}`
      : 'none of the shares here has it: make the one that is missing';
    const missing = this.length - this.#found;
    throw badShares(
      `${counted(missing, 'text')} of ${this.length} ${missing === 1 ? 'is' : 'are'} missing, first that of ${this.#name(place)}; ${whose}`,
    );
  }

  /** All lines in the order of their places. Reads each where it lies. */
  *lines(onLine: (done: number) => void): Generator<Uint8Array, void> {
    const files = new Map<number, number>();
    try {
      for (let place = 0; place < this.length; place++) {
        const number = present(this.#share[place], 'share');
        const { path } = present(this.#shares[number - 1], 'share');
        const file = files.get(number) ?? openShare(path, files);
        files.set(number, file);
        const bytes = Buffer.allocUnsafe(present(this.#bytes[place], 'length'));
        for (let done = 0; done < bytes.length; ) {
          const at = present(this.#offset[place], 'offset') + done;
          const count = readSync(file, bytes, done, bytes.length - done, at);
          if (count === 0)
            throw badShares(`${path} became shorter while it was read: wait until its run has ended`);
          done += count;
        }
        onLine(place + 1);
        yield bytes;
      }
    } finally {
      for (const file of files.values()) closeSync(file);
    }
  }
}

/** Fewer than the limit of most systems. */
const MOST_OPEN = 256;

function openShare(path: string, files: Map<number, number>): number {
  for (const [number, file] of files) {
    if (files.size < MOST_OPEN) break;
    closeSync(file);
    files.delete(number);
  }
  try {
    return openSync(path, 'r');
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    throw badShares(`${path} was removed while it was read`);
  }
}

function againWith({ shard }: RunSettings): string {
  return `run ${shard === undefined ? 'it' : `its --shard ${shard}`} again with --resume, which makes what is missing`;
}

function badShares(message: string): OperatingError {
  return new OperatingError('BAD_INPUT', `merge: ${message}`);
}
