// JSON that Python writes and reads: three numbers more than the standard has, and nothing else.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseSafetensorsHeader } from '../../src/checkpoint/safetensors.js';
import { openModel } from '../../src/engine/open-model.js';
import { parsePythonJson } from '../../src/files/python-json.js';
import { changedCheckpoint } from '../helpers/changed-checkpoint.js';
import { failureOf } from '../helpers/hub-setting.js';

test.each<[string, unknown]>([
  ['{"a": [0.0, Infinity], "b": -Infinity, "c": NaN}', { a: [0, Infinity], b: -Infinity, c: Number.NaN }],
  ['NaN', Number.NaN],
  [' -Infinity\n', -Infinity],
  ['[NaN,NaN,{"x":Infinity}]', [Number.NaN, Number.NaN, { x: Infinity }]],
  [
    '{"NaN": "NaN, Infinity", "\\"": "\\\\", "x": [NaN ]}',
    { NaN: 'NaN, Infinity', '"': '\\', x: [Number.NaN] },
  ],
  ['\ufeff{"a": Infinity}', { a: Infinity }],
  ['{"a": 1, "a": NaN}', { a: Number.NaN }],
  ['{"model_max_length": 1000000000000000019884624838656}', { model_max_length: 1e30 }],
])('reads %j', (text, value) => {
  expect(parsePythonJson(text)).toEqual(value);
});

test.each([
  '{NaN: 1}',
  '[1 NaN]',
  '[1NaN]',
  '[NaN1]',
  '[+Infinity]',
  '[- Infinity]',
  '[-NaN]',
  '[--Infinity]',
  '[nan]',
  '[inf]',
  '[infinity]',
  '[Infinity',
  '"Infinity',
  '{"a": NaN,}',
  '[NaNInfinity]',
  '[Infinity.0]',
  '',
])('refuses %j', (text) => {
  expect(() => parsePythonJson(text)).toThrow(SyntaxError);
});

test('in a configuration: where nothing needs it, and where a number must be finite', async () => {
  const folder = await changedCheckpoint('llama', {});
  const path = join(folder, 'config.json');
  const text = readFileSync(path, 'utf8');
  writeFileSync(path, text.replace('{', '{"time_step_limit": [0.0, Infinity], '));
  expect((await openModel(folder)).warnings).toEqual([]);
  writeFileSync(path, text.replace(/"rms_norm_eps": *[^,}]+/, '"rms_norm_eps": NaN'));
  const error = await failureOf(openModel(folder));
  expect(error.message).toMatch(/rms_norm_eps must be a number; it is NaN/);
});

test('a safetensors header whose metadata is null, which the format allows, and of other kinds, which it does not', () => {
  const parse = (metadata: string) =>
    parseSafetensorsHeader(Buffer.from(`{"__metadata__":${metadata}}`), 'x', 8 + 17 + metadata.length);
  expect(parse('null').metadata).toEqual({});
  expect(parse('{}').metadata).toEqual({});
  for (const bad of ['[]', '"x"', '7', '{"a":1}', '{"a":null}']) expect(() => parse(bad)).toThrow(/x /);
});
