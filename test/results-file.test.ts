// Which results a run may go on with: torn lines are cut, and what does not belong is refused.

import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { finishedTexts } from '../src/cli/resume.js';
import { JsonLinesFile } from '../src/output-file.js';
import {
  checkSettings,
  readFinished,
  readSettings,
  settingsPath,
  writeSettings,
} from '../src/results-file.js';
import { tempFolder } from './helpers/temp-folder.js';

const folder = tempFolder();
const output = join(folder, 'out.jsonl');
const SETTINGS = { model: 'm', prompts: '3', num_samples: 2, stop: ['x'], seed: null };
const encoded = ['a', 'b', 'c'].flatMap((text, index) =>
  [0, 1].map((sample) => ({ index, sample, text, tokens: Int32Array.of(1) })),
);

function line(index: number, sample: number): string {
  return `${JSON.stringify({ index, sample, prompt: 'abc'[index], text: 'Ω\n', token_ids: [5] })}\n`;
}

beforeEach(() => {
  rmSync(output, { force: true });
  writeSettings(output, SETTINGS);
});

function finished(content: string | Uint8Array) {
  writeFileSync(output, content);
  return finishedTexts(output, SETTINGS, { encoded });
}

describe('finished texts', () => {
  const three = line(2, 1) + line(0, 0) + line(1, 0);

  it('are known by their places, in whatever order they were finished', () => {
    const wholeBytes = Buffer.byteLength(three);
    expect(finished(three)).toEqual({ places: new Set([5, 0, 2]), wholeBytes, tornBytes: 0 });
  });

  it('an absent or empty file has none, whatever lies beside it', () => {
    writeFileSync(settingsPath(output), 'anything');
    expect(finishedTexts(output, SETTINGS, { encoded }).places.size).toBe(0);
    expect(finished('')).toEqual({ places: new Set(), wholeBytes: 0, tornBytes: 0 });
  });

  it('a last line cut anywhere is torn, and the lines before it count', () => {
    const [bytes, next] = [Buffer.from(three), Buffer.from(line(0, 1))];
    for (let cut = 1; cut < next.length; cut++) {
      const { places, wholeBytes, tornBytes } = finished(Buffer.concat([bytes, next.subarray(0, cut)]));
      expect([places.size, wholeBytes, tornBytes]).toEqual([3, bytes.length, cut]);
    }
    // Blocks that never reached the drive read as zeros.
    for (const zeros of ['\0'.repeat(50), `${'\0'.repeat(50)}\n`]) {
      expect(finished(three + zeros)).toMatchObject({ wholeBytes: bytes.length, tornBytes: zeros.length });
    }
    expect(finished(next.subarray(0, 7))).toEqual({ places: new Set(), wholeBytes: 0, tornBytes: 7 });
  });

  it('are read whatever their size, across the borders of pieces', () => {
    const long = JSON.stringify({ index: 1, sample: 1, prompt: 'b', text: 'ü'.repeat(2_500_000) });
    const content = `${three}${long}\n${line(0, 1)}{"index"`;
    expect(finished(content)).toMatchObject({ places: new Set([5, 0, 2, 3, 1]), tornBytes: 8 });
  });

  it.each([
    ['twice', three + line(0, 0), /line 4 of .* is a text that was there before/],
    ['damaged before the end', `{"index\n${three}`, /line 1 of .* is no JSON object/],
    ['no object', `5\n${three}`, /line 1 of .* is no JSON object/],
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
    rmSync(settingsPath(output));
    expect(() => readSettings(output)).toThrow(/out\.jsonl\.run\.json, which says what .*, is missing/);
    writeFileSync(settingsPath(output), '[]');
    expect(() => readSettings(output)).toThrow(/run\.json holds JSON, but not an object/);
  });
});

it('a second run on the same results notices the first', () => {
  writeFileSync(output, line(0, 0));
  const { wholeBytes } = readFinished(output, () => 0);
  const [one, other] = [0, 1].map(() => new JsonLinesFile(output, '--output'));
  for (const file of [one, other]) file?.open(wholeBytes);
  one?.write({ index: 0, sample: 1, prompt: 'a' });
  expect(() => other?.write({ index: 0, sample: 1, prompt: 'a' })).toThrow(/another program writes to it/);
  one?.write({ index: 1, sample: 0, prompt: 'b' });
  for (const file of [one, other]) file?.close();
  expect(finishedTexts(output, SETTINGS, { encoded }).places.size).toBe(3);
});

it('a file that goes on keeps its whole lines and nothing else', () => {
  writeFileSync(output, `${line(0, 0)}{"ind`);
  const { wholeBytes } = readFinished(output, () => 0);
  const file = new JsonLinesFile(output, '--output');
  file.open(wholeBytes);
  file.write({ index: 0, sample: 1, prompt: 'a' });
  file.write({ index: 1, sample: 0, prompt: 'b' });
  file.close();
  const again = finishedTexts(output, SETTINGS, { encoded });
  expect([...again.places]).toEqual([0, 1, 2]);
  expect(again.tornBytes).toBe(0);
});
