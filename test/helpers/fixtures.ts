// Where the fixture checkpoints lie, and their golden results.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url));

/** Folder of a fixture checkpoint. */
export function modelFolder(name: string): string {
  return join(FIXTURES, 'models', name);
}

/** See test/fixtures/README.md. */
export interface Golden {
  readonly prompts: readonly string[];
  readonly input_ids: readonly (readonly number[])[];
  readonly last_logits: readonly (readonly number[])[];
  readonly greedy: readonly (readonly number[])[];
  readonly greedy_margins?: readonly (readonly number[])[];
  readonly batch_greedy?: readonly (readonly number[])[];
  readonly nll_ids: readonly number[];
  readonly nll: number;
  readonly texts?: readonly string[];
}

export function goldenOf(name: string): Golden {
  return JSON.parse(readFileSync(join(modelFolder(name), 'golden.json'), 'utf8'));
}

/** 1.1 MB of public-domain English. */
export function shakespeareText(): string {
  return readFileSync(join(FIXTURES, 'text', 'tinyshakespeare.txt'), 'utf8');
}
