// Prompts and texts that come by a pipe, and inputs that are no files: taken, or refused within bounds, or interrupted.

import { execFileSync, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));
const MODEL = modelFolder('shakespeare-bloom');
const BRIEF = ['--name', MODEL, '--max_new_tokens', '8'];

/** Runs with that standard input: text of a pipe, or what is asked for by name. */
function run(args: readonly string[], stdin: string | 'ignore' | 'open') {
  const child = spawn(process.execPath, [MAIN, ...args], {
    stdio: [stdin === 'ignore' ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  });
  if (stdin !== 'ignore' && stdin !== 'open') child.stdin?.end(stdin);
  let [stdout, stderr] = ['', ''];
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const ended = new Promise<{ status: number | null; stdout: string; stderr: string }>((resolve) => {
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
  return { child, ended };
}

describe.concurrent('standard input', () => {
  it('is read for prompts where it is given: by name, or without being asked', async () => {
    const [asked, found, option] = await Promise.all([
      run([...BRIEF, '--prompts_file', '-'], 'ROMEO:\n').ended,
      run(BRIEF, 'ROMEO:\n').ended,
      run([...BRIEF, '--prompt', 'ROMEO:'], 'JULIET:\n').ended,
    ]);
    expect(asked.status).toBe(0);
    expect(asked.stdout).toBe(option.stdout);
    expect(found.stdout).toBe(option.stdout);
  });

  it('empty or absent, the built-in prompts are taken; empty where it was asked for, it is an error', async () => {
    const [nothing, device, asked] = await Promise.all([
      run(BRIEF, '').ended,
      run(BRIEF, 'ignore').ended,
      run([...BRIEF, '--prompts_file', '-'], '\n').ended,
    ]);
    expect(nothing.stdout).toContain('The lighthouse keeper');
    expect(device.stdout).toBe(nothing.stdout);
    expect(asked.status).toBe(2);
    expect(asked.stderr).toContain('BAD_INPUT: standard input has no prompts');
  });

  it('equal prompts that are drawn are all shown, and JSON Lines come back with their ids', async () => {
    const output = join(newFolder(), 'out.jsonl');
    const line = (id: string, more = {}) =>
      JSON.stringify({ prompt: 'ROMEO:', id, temperature: 1.2, ...more });
    const lines = [line('a'), line('b'), line('c', { seed: 5 }), line('d', { seed: 5, max_tokens: 3 })];
    const words = [...BRIEF, '--seed', '3', '--batch_size', '4', '--output', output];
    const { status, stdout } = await run([...words, '--prompts_file', '-'], lines.join('\n')).ended;
    expect(status).toBe(0);
    expect(stdout.match(/^in=ROMEO:$/gm)).toHaveLength(4);
    const results = readFileSync(output, 'utf8')
      .trimEnd()
      .split('\n')
      .map((one) => JSON.parse(one));
    const of = (id: string) => results.find((one) => one.id === id);
    expect(of('a').token_ids).not.toEqual(of('b').token_ids);
    expect(of('d').token_ids).toEqual(of('c').token_ids.slice(0, 3));
    // The results are prompts again, with the same texts where they are the same prompts.
    const again = join(newFolder(), 'again.jsonl');
    const greedy = await run([...BRIEF, '--prompts_file', output, '--output', again], 'ignore').ended;
    expect(greedy.stderr).not.toContain('BAD_INPUT');
    expect(greedy.status).toBe(0);
    expect(readFileSync(again, 'utf8')).toContain('"id":"d"');
  });

  it('scores a text and token ids that come by it', async () => {
    const words = ['score', '--name', MODEL, '--json'];
    const path = join(newFolder(), 'text.txt');
    writeFileSync(path, 'ROMEO: But soft, what light');
    const [text, file, ids] = await Promise.all([
      run([...words, '--text_file', '-'], 'ROMEO: But soft, what light').ended,
      run([...words, '--text_file', path], 'ignore').ended,
      run([...words, '--token_ids', '-'], '[5, 6, 7]').ended,
    ]);
    expect(text.stdout).toBe(file.stdout);
    expect(JSON.parse(ids.stdout)).toMatchObject({ tokens: 2 });
  });
});

describe.concurrent('inputs that are no files', () => {
  it.each([
    ['/dev/zero', /more than 64 MiB|zero byte/],
    ['/dev/urandom', /zero byte|not UTF-8/],
    ['/', /is a folder/],
    ['/dev/null', /has no prompts/],
  ])('%s as a prompts file', async (path, message) => {
    const { status, stderr } = await run([...BRIEF, '--prompts_file', path], 'ignore').ended;
    expect(stderr).toMatch(message);
    expect([2, 3]).toContain(status);
  });

  it.each(['--text_file', '--token_ids'])('/dev/zero and /dev/urandom as %s', async (option) => {
    for (const path of ['/dev/zero', '/dev/urandom']) {
      const { status, stderr } = await run(['score', '--name', MODEL, option, path], 'ignore').ended;
      expect(stderr).toMatch(/BAD_INPUT: .*(zero byte|not UTF-8)/);
      expect(status).toBe(2);
    }
  });

  it('waiting for a pipe that nobody writes to ends with a signal', async () => {
    const fifo = join(newFolder(), 'fifo');
    execFileSync('mkfifo', [fifo]);
    const waits = [
      [...BRIEF, '--prompts_file', fifo],
      ['score', '--name', MODEL, '--text_file', fifo],
      ['score', '--name', MODEL, '--token_ids', '-'],
      BRIEF,
    ];
    for (const args of waits) {
      const { child, ended } = run(args, 'open');
      child.stderr?.once('data', () => child.kill('SIGTERM'));
      const { status, stderr } = await ended;
      expect(stderr).toMatch(/reading .*from .*\n.*INTERRUPTED: stopped by SIGTERM/);
      expect(status).toBe(130);
    }
  });
});
