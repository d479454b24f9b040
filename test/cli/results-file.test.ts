// Which results a run may go on with: torn lines are cut, and what does not belong is refused.

import { appendFileSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { listOf } from '../../src/cli/generation/prompt-list.js';
import type { OwnOptions } from '../../src/cli/generation/prompts.js';
import {
  checkSettings,
  damagedPath,
  readSettings,
  settingsPath,
  writeSettings,
} from '../../src/cli/results/file.js';
import { dropDamaged, readFinished } from '../../src/cli/results/lines.js';
import { finishedTexts, promptsDigest } from '../../src/cli/results/resume.js';
import { JsonLinesFile } from '../../src/files/json-lines-file.js';
import { PlaceSet } from '../../src/files/place-set.js';
import { tempFolder } from '../helpers/temp-folder.js';

const folder = tempFolder();
const output = join(folder, 'out.jsonl');

/** Prompts of one letter each, with two texts for each. */
function jobOf(letters: string) {
  const prompts = listOf([...letters].map((text) => ({ text })));
  return { prompts, samples: 2, vocabulary: { size: 10, startToken: 0, tokenizer: undefined } };
}

const job = jobOf('abc');
const SETTINGS = {
  model: 'm',
  weights: [],
  prompts: promptsDigest(job.prompts),
  num_samples: 2,
  stop: ['x'],
  seed: null,
  max_new_tokens: 1,
};

function line(index: number, sample: number, prompt = 'abc'[index]): string {
  const text = { text: 'Ω\n', token_ids: [5], finish_reason: 'length' };
  return `${JSON.stringify({ index, sample, prompt, ...text })}\n`;
}

beforeEach(() => {
  rmSync(output, { force: true });
  rmSync(damagedPath(output), { force: true });
  writeSettings(output, SETTINGS);
});

function finished(content: string | Uint8Array, now = job) {
  writeFileSync(output, content);
  return finishedTexts(output, SETTINGS, now);
}

describe('finished texts', () => {
  const three = line(2, 1) + line(0, 0) + line(1, 0);

  it('are known by their places, in whatever order they were finished', () => {
    const end = Buffer.byteLength(three);
    expect(finished(three)).toEqual({
      places: PlaceSet.of([5, 0, 2]),
      fileBytes: end,
      kept: [{ begin: 0, end }],
      damaged: [],
      tornBytes: 0,
    });
  });

  it('an absent or empty file has none, whatever lies beside it', () => {
    writeFileSync(settingsPath(output), 'anything');
    expect(finishedTexts(output, SETTINGS, job).places.size).toBe(0);
    expect(finished('').places.size).toBe(0);
  });

  it('a last line cut anywhere is torn, and the lines before it count', () => {
    const [bytes, next] = [Buffer.from(three), Buffer.from(line(0, 1))];
    for (let cut = 1; cut < next.length; cut++) {
      const { places, kept, damaged, tornBytes } = finished(Buffer.concat([bytes, next.subarray(0, cut)]));
      expect([places.size, kept, damaged, tornBytes]).toEqual([
        3,
        [{ begin: 0, end: bytes.length }],
        [],
        cut,
      ]);
    }
    // Blocks that never reached the drive read as zeros.
    for (const zeros of ['\0'.repeat(50), `${'\0'.repeat(50)}\n`]) {
      expect(finished(three + zeros)).toMatchObject({ damaged: [], tornBytes: zeros.length });
    }
    expect(finished(next.subarray(0, 7))).toMatchObject({ kept: [], damaged: [], tornBytes: 7 });
  });

  it('are read whatever their size, across the borders of pieces', () => {
    const long = line(1, 1).replace('Ω', 'ü'.repeat(2_500_000));
    const content = `${three}${long}${line(0, 1)}{"index"`;
    expect(finished(content)).toMatchObject({ places: PlaceSet.of([5, 0, 2, 3, 1]), tornBytes: 8 });
  });

  it.each([
    [
      'no such prompt',
      line(2, 0).replace('2', '7') + three,
      /line 1 of .* has index 7, and there are 3 prompts/,
    ],
    ['no such sample', line(2, 2), /line 1 of .* has no index of a text/],
    ['no index', line(2, 0).replace('index', 'place'), /line 1 of .* has no index of a text/],
    ['no whole index', line(2, 0).replace('2', '0.5'), /line 1 of .* has no index of a text/],
    [
      'another prompt',
      line(2, 0).replace('"c"', '"b"'),
      /line 1 of .* has another prompt than index 2 has now/,
    ],
  ])('refuses a record: %s', (_, content, message) => {
    expect(() => finished(content)).toThrow(message);
  });
});

describe('damaged lines', () => {
  const [a, b, c] = [line(2, 1), line(0, 0), line(1, 0)];
  const bytes = (...parts: (string | number[])[]) => Buffer.concat(parts.map((part) => Buffer.from(part)));

  it.each([
    ['half a line', bytes(a, b.slice(20), c), [5, 2], 1],
    ['zeros within a line', bytes(a, '\0\0\0', b, c), [5, 2], 1],
    ['bytes that are no UTF-8', bytes(a, b.slice(0, -4), [0xff], b.slice(-4), c), [5, 2], 1],
    ['two lines without a newline between them', bytes(a.trimEnd(), b, c), [2], 1],
    ['all lines without newlines', bytes(a.trimEnd(), b.trimEnd(), c.trimEnd()), [], 1],
    ['one list of all', bytes(`[${[a, b, c].map((text) => text.trim()).join()}]`), [], 1],
    ['another value', bytes(a, '5\n', b, c), [5, 0, 2], 1],
    ['a text that is there twice', bytes(a, b, b, c, a), [5, 0, 2], 2],
    ['a line without its token ids', bytes(a, b.replace('token_ids', 'tokens'), c), [5, 2], 1],
    ['the first line', bytes([0xef, 0xbb, 0xbf], a, b, c), [0, 2], 1],
    ['empty lines', bytes('\n', a, '\r\n', b, c, ' \n'), [5, 0, 2], 0],
  ])('%s: the good ones stay, and nothing is thrown away', (_, content, places, count) => {
    const found = finished(content);
    expect([...found.places]).toEqual(places.toSorted());
    expect(found.damaged).toHaveLength(count);
    const { keptBytes, fileBytes } = dropDamaged(output, found);
    const good = [a, b, c].filter((_line, i) => places.includes([5, 0, 2][i] ?? -1)).join('');
    expect(readFileSync(output).subarray(0, keptBytes).toString()).toBe(good);
    expect(fileBytes).toBe(statSync(output).size);
    const aside = existsSync(damagedPath(output)) ? statSync(damagedPath(output)).size : 0;
    const damagedBytes = found.damaged.reduce((sum, { begin, end }) => sum + end - begin, 0);
    expect(aside).toBe(damagedBytes);
    // And now it is as any other.
    const file = new JsonLinesFile(output, '--output');
    file.open(keptBytes, fileBytes);
    file.close();
    expect(finishedTexts(output, SETTINGS, job)).toMatchObject({ damaged: [], tornBytes: 0 });
    expect([...finishedTexts(output, SETTINGS, job).places]).toEqual(places.toSorted());
  });

  it('are looked for in the file that was read, and in no other', () => {
    const found = finished(bytes(a, '5\n', b));
    writeFileSync(output, a + b + c);
    expect(() => dropDamaged(output, found)).toThrow(/another program writes to it/);
    expect(readFileSync(output, 'utf8')).toBe(a + b + c);
  });
});

describe('prompts', () => {
  it('may have come after those of the results', () => {
    const { places } = finished(line(1, 0) + line(2, 1), jobOf('abcde'));
    expect([...places]).toEqual([2, 5]);
  });

  it.each([
    ['changed', 'axcde', /other prompts \(prompt 1 was "b" and is "x"\)/],
    ['moved', 'bac', /other prompts \(prompt 1 was "b" and is "a"\)/],
    ['put before the others', 'zabc', /other prompts \(prompt 1 was "b" and is "a"\)/],
    [
      'changed where there is no text yet',
      'xbc',
      /other prompts \(one of the first 3, of which there is no text to show\)/,
    ],
    ['fewer', 'ab', /other prompts \(3 there, 2 now\)/],
  ])('%s: refused', (_, letters, message) => {
    expect(() => finished(line(1, 0) + line(2, 1), jobOf(letters))).toThrow(message);
  });
});

describe('what lines ask for', () => {
  it('decides what their texts are; their names do not', () => {
    const digest = (own: OwnOptions) => promptsDigest(listOf([{ text: 'a', own }]));
    const plain = promptsDigest(listOf([{ text: 'a' }]));
    expect(digest({ id: 5 })).toBe(plain);
    for (const own of [
      { maxNewTokens: 3 },
      { sampling: { seed: 1 } },
      { stopStrings: [] },
      { ignoreEos: false },
    ]) {
      expect(digest(own)).not.toBe(plain);
    }
  });
});

describe('settings', () => {
  it('must be there, and be those of the run', () => {
    writeFileSync(output, line(0, 0));
    expect(readSettings(output)).toEqual(SETTINGS);
    expect(() => checkSettings(output, SETTINGS, { ...SETTINGS })).not.toThrow();
    for (const other of [{ model: 'n' }, { stop: [] }, { seed: 5 }, { more: 1 }]) {
      expect(() => checkSettings(output, SETTINGS, { ...SETTINGS, ...other })).toThrow(
        new RegExp(`belong to a run with other ${Object.keys(other)[0]} `),
      );
    }
    const long = (end: string) => ({ ...SETTINGS, system: 'x'.repeat(500) + end });
    expect(() => checkSettings(output, long('a'), long('a'))).not.toThrow();
    expect(() => checkSettings(output, long('a'), long('b'))).toThrow(/belong to a run with other system /);
    rmSync(settingsPath(output));
    expect(() => readSettings(output)).toThrow(/out\.jsonl\.run\.json, which says what .*, is missing/);
    writeFileSync(settingsPath(output), '[]');
    expect(() => readSettings(output)).toThrow(/run\.json holds JSON, but not an object/);
  });
});

it('a second run on the same results is refused while the first is there', () => {
  writeFileSync(output, line(0, 0));
  const { size } = statSync(output);
  const [one, other] = [new JsonLinesFile(output, '--output'), new JsonLinesFile(output, '--output')];
  one.open(size, size);
  expect(() => other.open(size, size)).toThrow(/another run is writing to it/);
  expect(() => other.open(0)).toThrow(/another run is writing to it/);
  const found = readFinished(output, () => 0);
  expect(() => dropDamaged(output, { ...found, damaged: [{ begin: 0, end: 1 }] })).toThrow(
    /another run is writing to it/,
  );
  one.write(JSON.parse(line(0, 1)));
  one.close();
  other.open(statSync(output).size);
  other.close();
  expect(finishedTexts(output, SETTINGS, job).places.size).toBe(2);
});

it('a program that writes to the results without asking is noticed before the next line', () => {
  const file = new JsonLinesFile(output, '--output');
  file.open();
  file.write(JSON.parse(line(0, 0)));
  appendFileSync(output, line(0, 1));
  expect(() => file.write(JSON.parse(line(1, 0)))).toThrow(/another program writes to it/);
  file.close();
  expect(readFileSync(output, 'utf8')).toBe(line(0, 0) + line(0, 1));
});

it('a file that goes on keeps its whole lines and nothing else', () => {
  writeFileSync(output, `${line(0, 0)}{"ind`);
  const { keptBytes, fileBytes } = dropDamaged(
    output,
    readFinished(output, () => 0),
  );
  const file = new JsonLinesFile(output, '--output');
  file.open(keptBytes, fileBytes);
  file.write(JSON.parse(line(0, 1)));
  file.write(JSON.parse(line(1, 0)));
  file.close();
  const again = finishedTexts(output, SETTINGS, job);
  expect([...again.places]).toEqual([0, 1, 2]);
  expect(again.tornBytes).toBe(0);
});

it('a file that another program has begun meanwhile is left alone', () => {
  writeFileSync(output, line(0, 0));
  const file = new JsonLinesFile(output, '--output');
  expect(() => file.open(0, 0)).toThrow(/another program has written to it since this run began/);
  expect(readFileSync(output, 'utf8')).toBe(line(0, 0));
  file.open(0); // asked for
  file.close();
  expect(readFileSync(output, 'utf8')).toBe('');
});
