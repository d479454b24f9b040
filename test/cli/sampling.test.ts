// Drawn texts, several per prompt, stop strings and chats, as users run them.

import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../helpers/cli.js';
import { goldenOf, modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';

const newFolder = sharedFolder();

const MODEL = modelFolder('shakespeare-bloom');
const GOLDEN = goldenOf('shakespeare-bloom');
const [PROMPT = ''] = GOLDEN.prompts;
const [TEXT = ''] = GOLDEN.texts ?? [];
const BRIEF = ['--name', MODEL, '--max_new_tokens', '12'];
const DRAWN = ['--temperature', '1.1', '--top_k', '50', '--top_p', '0.95', '--seed', '5'];

function jsonLines(path: string) {
  return readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

describe.concurrent('drawn texts', () => {
  it('are the same with the same seed, whatever the batch and the placement', async () => {
    const prompts = GOLDEN.prompts.flatMap((prompt) => ['--prompt', prompt]);
    const [one, two, other] = await Promise.all([
      runCli([...BRIEF, ...DRAWN, ...prompts, '--nvme_offload_path', MODEL]),
      runCli([...BRIEF, ...DRAWN, ...prompts, '--cpu_offload', '--batch_size', '3', '--threads', '1']),
      runCli([...BRIEF, ...DRAWN.slice(0, -1), '6', ...prompts]),
    ]);
    expect(one.errors).toEqual([]);
    expect(two.stdout).toBe(one.stdout);
    expect(other.stdout).not.toBe(one.stdout);
    expect(one.logs).toContain('tokens are drawn with --seed 5');
  });

  it('say their seed in the report, with which they can be made again', async () => {
    const folder = newFolder();
    const report = join(folder, 'report.json');
    const words = [...BRIEF, '--prompt', PROMPT, '--temperature', '1.5', '--report', report];
    const first = await runCli(words);
    const { sampling, num_samples } = JSON.parse(readFileSync(report, 'utf8'));
    expect(sampling).toMatchObject({ temperature: 1.5, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1 });
    expect(num_samples).toBe(1);
    expect((await runCli([...words, '--seed', String(sampling.seed)])).stdout).toBe(first.stdout);
  });

  it('several per prompt are shown one below the other and numbered in JSON', async () => {
    const output = join(newFolder(), 'out.jsonl');
    const prompts = GOLDEN.prompts.slice(0, 2).flatMap((prompt) => ['--prompt', prompt]);
    const words = [
      ...BRIEF,
      ...DRAWN,
      ...prompts,
      '--num_samples',
      '3',
      '--batch_size',
      '4',
      '--output',
      output,
    ];
    const result = await runCli(words);
    expect(result.errors).toEqual([]);
    expect(result.stdout.match(/^in=/gm)).toHaveLength(6);
    const records = jsonLines(output);
    const places = records.map(({ index, sample }) => `${index}.${sample}`).sort();
    expect(places).toEqual(['0.0', '0.1', '0.2', '1.0', '1.1', '1.2']);
    expect(new Set(records.map(({ text }) => text)).size).toBe(6);
    for (const { index, text } of records) {
      expect(result.stdout).toContain(`out=${GOLDEN.prompts[index]}${text}\n`);
    }
    // The first of several is the one that comes alone.
    const alone = await runCli([...BRIEF, ...DRAWN, '--prompt', PROMPT]);
    const first = records.find(({ index, sample }) => index === 0 && sample === 0);
    expect(alone.stdout).toBe(`${first.text}\n`);
  });
});

describe.concurrent('stop strings', () => {
  it('end the text before them, streamed and in JSON', async () => {
    const output = join(newFolder(), 'out.jsonl');
    const stop = TEXT.slice(30, 37);
    const before = TEXT.slice(0, TEXT.indexOf(stop));
    const words = ['--name', MODEL, '--prompt', PROMPT, '--stop', 'never comes', '--stop', stop];
    const result = await runCli([...words, '--output', output]);
    expect(result.errors).toEqual([]);
    expect(result.stdout).toBe(`${before}\n`);
    const [record] = jsonLines(output);
    expect(record).toMatchObject({ text: before, finish_reason: 'stop' });
    expect(record.new_tokens).toBeLessThan(100);
  });

  it('need a tokenizer', async () => {
    const folder = join(newFolder(), 'model');
    cpSync(modelFolder('llama'), folder, {
      recursive: true,
      filter: (path) => !path.endsWith('tokenizer.json'),
    });
    const result = await runCli(['--name', folder, '--stop', 'x']);
    expect(result.status).toBe(5);
    expect(result.errors.join('\n') + result.logs.join('\n')).toContain('BAD_TOKENIZER');
  });
});

describe.concurrent('chats', () => {
  it('go through the template, and the text answers', async () => {
    const folder = join(newFolder(), 'model');
    cpSync(MODEL, folder, { recursive: true });
    // A template that writes the messages as the plain prompt of the golden text.
    const template = '{% for m in messages %}{{ m.content }}{% endfor %}';
    writeFileSync(join(folder, 'chat_template.jinja'), template);
    const output = join(newFolder(), 'out.jsonl');
    const [system, user] = [PROMPT.slice(0, 4), PROMPT.slice(4)];
    const words = ['--name', folder, '--chat', '--system', system, '--prompt', user, '--output', output];
    const result = await runCli(words);
    expect(result.errors).toEqual([]);
    expect(result.stdout).toBe(`${TEXT}\n`);
    expect(jsonLines(output)[0]).toMatchObject({
      prompt: user,
      text: TEXT,
      prompt_tokens: GOLDEN.input_ids[0]?.length,
    });
  });

  it('need a template', async () => {
    const result = await runCli([...BRIEF, '--chat', '--prompt', PROMPT]);
    expect(result.status).toBe(2);
    expect(result.errors.join('\n') + result.logs.join('\n')).toContain(
      'chats need a chat template, as do --chat',
    );
  });
});

describe.concurrent('messages of a line', () => {
  it('go through the template like --chat, come back in the result, and depend on the template', async () => {
    const folder = join(newFolder(), 'model');
    cpSync(MODEL, folder, { recursive: true });
    const template = join(folder, 'chat_template.jinja');
    writeFileSync(template, '{% for m in messages %}{{ m.content }}{% endfor %}');
    const [input, output] = [join(newFolder(), 'in.jsonl'), join(newFolder(), 'out.jsonl')];
    const messages = [
      { role: 'system', content: PROMPT.slice(0, 4) },
      { role: 'user', content: PROMPT.slice(4) },
    ];
    writeFileSync(input, `${JSON.stringify({ messages, id: 1 })}\n`);
    const words = ['--name', folder, '--prompts_file', input, '--output', output];
    const result = await runCli(words);
    expect(result.errors).toEqual([]);
    expect(result.stdout).toBe(`${TEXT}\n`);
    expect(jsonLines(output)[0]).toMatchObject({ id: 1, prompt: null, messages, text: TEXT });
    expect((await runCli([...words, '--resume'])).logs.join()).toContain('1 of 1 text; 0 are to be made');
    // The result is a prompt again.
    const again = join(newFolder(), 'again.jsonl');
    await runCli(['--name', folder, '--prompts_file', output, '--output', again]);
    expect(jsonLines(again)[0]).toMatchObject({ id: 1, messages, text: TEXT });
    writeFileSync(template, '{% for m in messages %}{{ m.content }} {% endfor %}');
    const other = await runCli([...words, '--resume']);
    expect(other.errors.join()).toMatch(/belong to a run with other chat_template/);
  });
});
