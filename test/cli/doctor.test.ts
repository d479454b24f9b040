// `doctor` as a process: findings for people and programs, a saved description that `plan` takes, nothing left behind.

import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test, vi } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { HANG_MS } from '../helpers/hang.js';
import { tempFolder } from '../helpers/temp-folder.js';

const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));
const SHAPE = fileURLToPath(new URL('../../configs/models/llama-0.85b.json', import.meta.url));
const TOPICS = [
  'processor',
  'instruction sets',
  'memory',
  'huge pages',
  'io_uring',
  'locked memory',
  'O_DIRECT',
];

test('measures a folder’s drive, leaves nothing there, and describes the machine for plans', async () => {
  const folder = tempFolder();
  mkdirSync(folder, { recursive: true });
  const save = join(tempFolder(), 'machine.json');
  const { status, stdout, errors } = await runCli(['doctor', '--path', folder, '--save', save, '--json']);
  expect(errors).toEqual([]);
  expect(status).toBe(0);
  expect(readdirSync(folder)).toEqual([]);
  const { findings, machine } = JSON.parse(stdout);
  const topics = findings.map(({ topic }: { topic: string }) => topic);
  for (const topic of [...TOPICS, 'drive', 'memory rate', 'arithmetic', 'CUDA'])
    expect(topics).toContain(topic);
  for (const { state, mend } of findings) if (state === 'absent') expect(mend).toBeDefined();
  expect(machine.drive.bytes_per_second).toBeGreaterThan(0);
  const plan = await runCli([
    'plan',
    '--name',
    SHAPE,
    '--machine',
    save,
    '--nvme_offload_path',
    folder,
    '--json',
  ]);
  expect(plan.status).toBe(0);
  expect(JSON.parse(plan.stdout).predicted.decode_step.total_ms).toBeGreaterThan(0);
});

test('leaves nothing behind, even when it is killed while it writes', async () => {
  const folder = tempFolder();
  const child = spawn(process.execPath, [MAIN, 'doctor', '--path', folder], { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.on('close', resolve));
  // The file has no name, but the process holds it.
  await vi.waitFor(() => expect(openFiles(child.pid)).toContain(`${folder}/`), HANG_MS);
  child.kill('SIGKILL');
  await ended;
  expect(readdirSync(folder)).toEqual([]);
});

function openFiles(pid: number | undefined): string {
  const links = readdirSync(`/proc/${pid}/fd`).map((name) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${name}`);
    } catch {
      return '';
    }
  });
  return links.join('\n');
}

test('reads a file that is there, and says so in words', async () => {
  const file = join(modelFolder('shakespeare-bloom'), 'model.safetensors');
  const { stdout, status } = await runCli(['doctor', '--path', file]);
  expect(status).toBe(0);
  expect(stdout).toMatch(/^\S+ +drive +[\d.]+ [MG]B\/s at .*model\.safetensors/m);
  expect(stdout).toMatch(/^\S+ +CUDA +\S/m);
});

test('a path that is nowhere, and a file that cannot be saved', async () => {
  const nowhere = await runCli(['doctor', '--path', '/nowhere/at/all']);
  expect(nowhere.status).toBe(3);
  expect(nowhere.errors.join()).toMatch(/NOT_FOUND: --path is \/nowhere\/at\/all/);
  const unsaved = await runCli(['doctor', '--save', '/nowhere/at/all/machine.json']);
  expect(unsaved.status).toBe(8);
  expect(unsaved.errors.join()).toMatch(/WRITE_FAILED: --save/);
});
