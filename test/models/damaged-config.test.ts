// Configurations whose numbers or names would make tables endless, or reach what every object inherits.

import { expect, test } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { buildArchitecture } from '../../src/models/registry.js';
import { modelFolder } from '../helpers/fixtures.js';

async function failureOf(model: string, changes: Readonly<Record<string, unknown>>): Promise<string> {
  const { config } = await openCheckpoint(modelFolder(model));
  try {
    buildArchitecture({ ...config, ...changes }, 'config.json');
  } catch (error) {
    return String(error);
  }
  throw new Error('it was accepted');
}

test.each([
  [
    'llama',
    'num_hidden_layers',
    2 ** 40,
    /num_hidden_layers must be a whole number from 1 to 10000; it is 1099/,
  ],
  ['bloom', 'n_layer', 10_001, /n_layer or num_hidden_layers must be a whole number from 1 to 10000/],
  ['llama', 'num_attention_heads', 2 ** 32, /num_attention_heads must be a whole number from 1 to 10000/],
  ['opt', 'hidden_size', 2 ** 40, /hidden_size must be a whole number from 1 to 16777216/],
])('%s with %s %d', async (model, key, value, message) => {
  expect(await failureOf(model, { [key]: value })).toMatch(message);
});

test.each(['constructor', '__proto__', 'toString'])('the name %s', async (name) => {
  expect(await failureOf('llama', { hidden_act: name })).toMatch(/UNSUPPORTED|not supported/);
  expect(await failureOf('llama', { rope_scaling: { rope_type: name }, rope_parameters: undefined })).toMatch(
    /rope_type "\w+" is not supported/,
  );
});

test('a value of any length is quoted in part', async () => {
  expect((await failureOf('llama', { vocab_size: 'x'.repeat(1e5) })).length).toBeLessThan(400);
  const deep: unknown = JSON.parse('['.repeat(1e5) + ']'.repeat(1e5));
  expect(await failureOf('llama', { vocab_size: deep })).toMatch(/vocab_size .* a value of too many levels/);
});
