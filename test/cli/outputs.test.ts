// Outputs: no input is ever written over, links and owners stay, and what cannot be written is an error of any command.

import { execFileSync } from 'node:child_process';
import {
  chownSync,
  cpSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();
const isRoot = process.getuid?.() === 0;

/** A model, prompts, a text and a ds_config, each with a symbolic and a hard link beside it. */
function setting() {
  const folder = newFolder();
  const model = join(folder, 'model');
  cpSync(modelFolder('stories260K'), model, { recursive: true });
  writeFileSync(join(folder, 'prompts.jsonl'), '{"prompt": "Once"}\n');
  writeFileSync(join(folder, 'text.txt'), 'Once upon a time');
  writeFileSync(join(folder, 'ds.json'), '{"zero_optimization": {"stage": 3}}');
  const inputs = [
    'prompts.jsonl',
    'text.txt',
    'ds.json',
    ...['model.safetensors', 'config.json', 'tokenizer.json'].map((name) => `model/${name}`),
  ];
  for (const [index, name] of inputs.entries()) {
    symlinkSync(name, join(folder, `soft${index}`));
    linkSync(join(folder, name), join(folder, `hard${index}`));
  }
  const contents = () => inputs.map((name) => readFileSync(join(folder, name)));
  const before = contents();
  const expectUntouched = () =>
    expect(contents().map((one, i) => one.equals(before[i] as Buffer))).not.toContain(false);
  return { folder, model, inputs, expectUntouched };
}

type Setting = ReturnType<typeof setting>;

function words({ folder, model }: Setting): string[] {
  const prompts = ['--prompts_file', join(folder, 'prompts.jsonl'), '--ds_config', join(folder, 'ds.json')];
  return ['--name', model, ...prompts, '--max_new_tokens', '2', '--log_level', 'error'];
}

describe.concurrent('outputs that are inputs', () => {
  it.each([
    ['--output', 'soft0', /soft0 is the file .*prompts\.jsonl, which --prompts_file reads/],
    ['--output', 'hard3', /hard3 is .*model\/model\.safetensors, a file of the model/],
    ['--report', 'soft4', /soft4 is .*model\/config\.json, a file of the model/],
    ['--trace', 'hard5', /hard5 is .*model\/tokenizer\.json, a file of the model/],
    ['--report', 'hard2', /hard2 is the file .*ds\.json, which --ds_config reads/],
    ['--output', 'model/../prompts.jsonl', /--prompts_file and --output are both|which --prompts_file reads/],
    ['--trace', 'model/merges.txt', /would be taken for a file of the model/],
    ['--output', 'model/extra.safetensors', /would be taken for a file of the model/],
  ] as const)('%s %s is refused', async (option, name, message) => {
    const one = setting();
    const result = await runCli(
      [...words(one), option, join(one.folder, name), '--overwrite'].filter(
        (word) => option === '--output' || word !== '--overwrite',
      ),
    );
    expect(result.errors.join()).toMatch(message);
    expect(result.errors.join()).toMatch(/^zero-inference: BAD_OPTION: /);
    expect(result.status).toBe(2);
    one.expectUntouched();
  });

  it('of other commands as well', async () => {
    const one = setting();
    const { folder, model } = one;
    const score = ['score', '--name', model, '--text_file', join(folder, 'text.txt'), '--report'];
    const text = await runCli([...score, join(folder, 'soft1')]);
    expect(text.errors.join()).toMatch(
      /BAD_OPTION: --report: .*soft1 is the file .*text\.txt, which --text_file reads/,
    );
    const doctor = await runCli(['doctor', '--path', model, '--save', join(model, 'config.json')]);
    expect(doctor.errors.join()).toMatch(/BAD_OPTION: --save: .* a file of the model/);
    const elsewhere = await runCli(['doctor', '--save', join(model, 'config.json')]);
    expect(elsewhere.errors.join()).toMatch(/BAD_OPTION: --save: .* is not the description of a machine/);
    one.expectUntouched();
  });

  it('nor one another, beside each other or by a link to what is yet to be made', async () => {
    const one = setting();
    const path = join(one.folder, 'new.jsonl');
    symlinkSync('new.jsonl', join(one.folder, 'dangling'));
    for (const other of [join(one.folder, 'dangling'), `${path}.run.json`]) {
      const result = await runCli([...words(one), '--output', path, '--report', other]);
      expect(result.errors.join()).toMatch(/BAD_OPTION: --output and --report are both/);
    }
    expect(readdirSync(one.folder)).not.toContain('new.jsonl');
  });
});

describe.concurrent('outputs', () => {
  it('a file of another kind is not replaced by a report', async () => {
    const folder = newFolder();
    const notes = join(folder, 'notes.md');
    writeFileSync(notes, '# Notes\n');
    const args = ['--name', modelFolder('stories260K'), '--prompt', 'x', '--max_new_tokens', '1', '--report'];
    const result = await runCli([...args, notes]);
    expect(result.errors.join()).toMatch(/BAD_OPTION: --report: .*notes\.md is there and is not a report/);
    expect(readFileSync(notes, 'utf8')).toBe('# Notes\n');
  });

  it('go through links to what they lead to; permissions stay, and files of the user too', async () => {
    const folder = newFolder();
    mkdirSync(join(folder, 'far'));
    for (const [link, end] of [
      ['report', 'far/report.json'],
      ['trace', 'far/trace.json'],
      ['out', 'far/out.jsonl'],
    ] as const) {
      symlinkSync(end, join(folder, link));
    }
    writeFileSync(join(folder, 'far/trace.json'), '', { mode: 0o600 });
    if (isRoot) chownSync(join(folder, 'far/trace.json'), 12345, 23456);
    // An earlier one of its kind may go.
    writeFileSync(join(folder, 'far/report.json'), '{"command": "generate", "model": {}}\n');
    writeFileSync(join(folder, 'report.partial'), 'mine');
    writeFileSync(join(folder, 'far/report.json.partial'), 'mine');
    const files = ['report', 'trace'].flatMap((name) => [`--${name}`, join(folder, name)]);
    const args = ['--prompt', 'x', '--max_new_tokens', '1', '--output', join(folder, 'out'), ...files];
    const result = await runCli(['--name', modelFolder('stories260K'), ...args]);
    expect(result.errors).toEqual([]);
    for (const link of ['report', 'trace', 'out']) {
      expect(lstatSync(join(folder, link)).isSymbolicLink()).toBe(true);
    }
    const trace = statSync(join(folder, 'far/trace.json'));
    expect([trace.mode & 0o777, trace.uid, trace.gid]).toEqual([
      0o600,
      ...(isRoot ? [12345, 23456] : [process.getuid?.(), process.getgid?.()]),
    ]);
    expect(readdirSync(join(folder, 'far')).sort()).toEqual(
      ['out.jsonl', 'out.jsonl.run.json', 'report.json', 'report.json.partial', 'trace.json'].sort(),
    );
    expect(readFileSync(join(folder, 'far/report.json.partial'), 'utf8')).toBe('mine');
    expect(readdirSync(folder)).toContain('report.partial');
  });
});

describe.concurrent('pipes', () => {
  const brief = ['--name', modelFolder('stories260K'), '--prompt', 'Once', '--max_new_tokens', '2'];

  it('are written as they come, without anything beside them', async () => {
    const folder = newFolder();
    const path = join(folder, 'pipe');
    execFileSync('mkfifo', [path]);
    const content = readFile(path, 'utf8');
    const result = await runCli([...brief, '--output', path]);
    expect(result.errors).toEqual([]);
    expect(JSON.parse(await content)).toMatchObject({ index: 0, prompt: 'Once' });
    expect(readdirSync(folder)).toEqual(['pipe']);
    expect(lstatSync(path).isFIFO()).toBe(true);
  });

  it('that nobody reads keep nobody from stopping the program', async () => {
    const path = join(newFolder(), 'pipe');
    execFileSync('mkfifo', [path]);
    const result = await runCli([...brief, '--report', path], {
      onStdout: (child, text) => text.endsWith('\n') && child.kill('SIGTERM'),
    });
    expect(result.errors.join()).toMatch(/INTERRUPTED: stopped by SIGTERM/);
    expect(result.status).toBe(130);
  });
});

describe.concurrent('stdout', () => {
  const brief = ['--name', modelFolder('stories260K'), '--prompt', 'Once', '--max_new_tokens', '2'];

  it.each([['-'], ['/dev/stdout'], ['/dev/fd/1'], ['/proc/self/fd/1']])(
    '--output %s: JSON lines, and nothing else',
    async (path) => {
      const result = await runCli([...brief, '--output', path, '--benchmark', '--cycles', '1']);
      expect(result.status).toBe(0);
      const lines = result.stdout.trimEnd().split('\n');
      expect(lines.map((line) => JSON.parse(line).index)).toEqual([0]);
      expect(result.errors.join()).toContain('*** Performance stats:');
    },
  );

  it('a report that goes there comes after the text, and stdout stays what it is', async () => {
    const result = await runCli([...brief, '--report', '/dev/stdout']);
    expect(result.status).toBe(0);
    const begin = result.stdout.indexOf('{\n');
    expect(begin).toBeGreaterThan(0);
    expect(JSON.parse(result.stdout.slice(begin))).toMatchObject({ command: 'generate' });
    const both = await runCli([...brief, '--output', '-', '--report', '/dev/fd/1']);
    expect(both.errors.join()).toMatch(/BAD_OPTION: --output and --report are both/);
  });

  it.each([
    [['--help']],
    [['--version']],
    [['plan', '--name', modelFolder('stories260K'), '--machine', 'configs/machines/h100-x1.json']],
    [brief],
    [[...brief, '--batch_size', '2', '--output', '-']],
    [['score', '--name', modelFolder('stories260K'), '--text_file', 'LICENSE', '--context', '32', '--json']],
  ])('that is full is an error: %j', async (args) => {
    const result = await runCli(args, { stdout: '/dev/full' });
    expect(result.errors.join()).toMatch(/^zero-inference: WRITE_FAILED: stdout cannot be written: ENOSPC/);
    expect(result.status).toBe(8);
  });

  it('that is the file of an input, or of another output, is refused', async () => {
    const folder = newFolder();
    const path = join(folder, 'prompts.jsonl');
    writeFileSync(path, '{"prompt": "Once"}\n');
    const args = ['--name', modelFolder('stories260K'), '--max_new_tokens', '2'];
    const input = await runCli([...args, '--prompts_file', path], { stdout: path });
    expect(input.errors.join()).toMatch(/BAD_OPTION: stdout is the file .*, which --prompts_file reads/);
    expect(readFileSync(path, 'utf8')).toBe('{"prompt": "Once"}\n');
    const fed = await runCli([...args, '--output', path, '--overwrite'], { stdin: path });
    expect(fed.errors.join()).toMatch(/BAD_OPTION: --output: .* is the file that stdin comes from/);
    expect(readFileSync(path, 'utf8')).toBe('{"prompt": "Once"}\n');
    const out = join(folder, 'out.jsonl');
    const output = await runCli([...args, '--prompt', 'x', '--output', out], { stdout: out });
    expect(output.errors.join()).toMatch(/BAD_OPTION: --output: .* is the file that stdout goes to/);
  });

  it('stderr that is full stops nothing', async () => {
    const result = await runCli(brief, { stderr: '/dev/full' });
    expect(result.status).toBe(0);
    expect(result.stdout.length).toBeGreaterThan(1);
  });
});
