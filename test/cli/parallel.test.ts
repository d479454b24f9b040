// Several devices that compute one batch together must make the texts that one makes, and say what they cannot share.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

const MODEL = modelFolder('stories260K');
const PROMPT = ['--prompt', 'Once upon a time', '--max_new_tokens', '12'];

it('texts are those of one device, and a report says how layers were shared', async () => {
  const report = join(newFolder(), 'report.json');
  const alone = await runCli(['--name', MODEL, ...PROMPT]);
  const devices = ['--parallel', 'tensor', '--virtual_devices', '2', '--report', report];
  const together = await runCli(['--name', MODEL, ...PROMPT, ...devices]);
  expect(together.errors).toEqual([]);
  expect(together.stdout).toBe(alone.stdout);
  const { plan } = JSON.parse(readFileSync(report, 'utf8'));
  expect(plan.transfer.kind).toBe('slices');
  expect(plan.transfer.reason).toMatch(/each of 2 devices pulls its own slices/);
});

it('what so many devices cannot share is refused before anything is read', async () => {
  const model = ['--name', modelFolder('olmo2'), ...PROMPT];
  const refused = await runCli([...model, '--parallel', 'tensor', '--virtual_devices', '2']);
  expect(refused.status).not.toBe(0);
  expect(refused.errors.join()).toMatch(/several devices cannot compute a model of type "olmo2" together/);
  const heads = ['--name', MODEL, ...PROMPT, '--parallel', 'tensor', '--virtual_devices', '3'];
  expect((await runCli(heads)).errors.join()).toMatch(/cannot be shared by 3 devices/);
});

it('one device shares nothing, and is told so', async () => {
  const { errors, logs } = await runCli(['--name', MODEL, ...PROMPT, '--parallel', 'tensor']);
  expect([...errors, ...logs].join('\n')).toMatch(/--parallel is given and changes nothing/);
});
