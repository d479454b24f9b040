// Conversations: each answer sees all that was said, by the checkpoint's template, in a terminal as by a pipe.

import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseLine } from '../../src/cli/chat/commands.js';
import { Conversation } from '../../src/cli/chat/conversation.js';
import { MessageLines } from '../../src/cli/chat/message-lines.js';
import { runCli } from '../helpers/cli.js';
import { modelFolder } from '../helpers/fixtures.js';
import { sharedFolder } from '../helpers/temp-folder.js';
import { KEYS, openTerminal } from '../helpers/terminal.js';

const newFolder = sharedFolder();

/** Renders every message on a line of its own, so that a prompt can be written by hand. */
const TEMPLATE = '{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:';

function chatModel(config: object = {}): string {
  const folder = join(newFolder(), 'model');
  cpSync(modelFolder('shakespeare-bloom'), folder, { recursive: true });
  writeFileSync(join(folder, 'chat_template.jinja'), TEMPLATE);
  const path = join(folder, 'generation_config.json');
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...config }));
  return folder;
}

const MODEL = chatModel();
const PLACED = ['--device', 'cpu', '--threads', '1'];

function chat(lines: readonly string[], ...words: string[]) {
  const input = join(newFolder(), 'lines');
  writeFileSync(input, lines.map((line) => `${line}\n`).join(''));
  return runCli(['chat', MODEL, ...PLACED, ...words], { stdin: input });
}

/** What the model says after that text. */
async function continuation(prompt: string, ...words: string[]): Promise<string> {
  const { stdout } = await runCli(['generate', MODEL, ...PLACED, `-p=${prompt}`, ...words]);
  return stdout.slice(0, -1);
}

describe.concurrent('by a pipe', () => {
  it('each line is a message, and the whole conversation is the next prompt', async () => {
    const folder = newFolder();
    const saved = join(folder, 'saved.jsonl');
    const result = await chat(['Hello', 'Go on', `/save ${saved}`], '--system', 'Be', '-n8');
    expect(result.errors).toEqual([]);
    expect(result.status).toBe(0);
    const first = await continuation('s:Be;u:Hello;a:', '-n8');
    const second = await continuation(`s:Be;u:Hello;a:${first};u:Go on;a:`, '-n8');
    expect(result.stdout).toBe(`${first}\n${second}\n`);
    const messages = [
      { role: 'system', content: 'Be' },
      { role: 'user', content: 'Hello' },
      { role: 'assistant', content: first },
      { role: 'user', content: 'Go on' },
      { role: 'assistant', content: second },
    ];
    expect(JSON.parse(readFileSync(saved, 'utf8'))).toEqual({ messages });
    // What is saved is a line of prompts as well, and can be gone on with.
    const again = await runCli(['generate', MODEL, ...PLACED, '--prompts_file', saved, '-n2']);
    expect(again.errors).toEqual([]);
    const loaded = await chat([`/load ${saved}`, '/undo', 'Go on'], '-n8');
    expect(loaded.stdout).toBe(`${second}\n`);
    const retried = await chat([`/load ${saved}`, '/retry'], '-n8');
    expect(retried.stdout).toBe(`${second}\n`);
  });

  it('forgets what is taken back, and begins anew', async () => {
    const { stdout, errors } = await chat(
      [
        'Hello',
        '/undo',
        'What',
        '/reset',
        '/system Be',
        'What',
        '/reset',
        '/system ""',
        'What',
        '/quit',
        'Never',
      ],
      '-n6',
    );
    expect(errors).toEqual([]);
    const answers = [
      await continuation('u:Hello;a:', '-n6'),
      await continuation('u:What;a:', '-n6'),
      await continuation('s:Be;u:What;a:', '-n6'),
      await continuation('u:What;a:', '-n6'),
    ];
    expect(stdout).toBe(answers.map((answer) => `${answer}\n`).join(''));
  });

  it('messages of several lines, of options, and with slashes', async () => {
    const { stdout } = await chat(
      ['one\\', 'two', '"""three', '', '/four', '"""', '//five'],
      '-p',
      'six',
      '-n1',
    );
    const whole = await chat([], '-p', 'six', '-p=one\ntwo', '-p=three\n\n/four', '-p=/five', '-n1');
    expect(stdout).not.toBe('');
    expect(stdout).toBe(whole.stdout);
  });

  it('draws as the model says unless told otherwise, the same with the same seed, and others for each answer', async () => {
    const folder = chatModel({ do_sample: true, temperature: 1.5 });
    const input = join(newFolder(), 'lines');
    writeFileSync(input, 'Hello\n/retry\n');
    const run = (...words: string[]) =>
      runCli(['chat', folder, ...PLACED, '-n12', ...words], { stdin: input });
    const [one, two, greedy] = [
      await run('--seed', '3'),
      await run('--seed', '3'),
      await run('--generation_config=false'),
    ];
    expect(one.stdout).toBe(two.stdout);
    const likeliest = await continuation('u:Hello;a:', '-n12');
    expect(greedy.stdout).toBe(`${likeliest}\n${likeliest}\n`);
    expect(one.stdout).not.toBe(greedy.stdout);
    const half = one.stdout.slice(0, one.stdout.length / 2);
    expect(one.stdout).not.toBe(half + half);
  });

  it.each<[string[], string[], number, RegExp]>([
    [['/foo'], [], 2, /BAD_INPUT: there is no command \/foo: \/help lists them/],
    [['/retry'], [], 2, /BAD_INPUT: nothing has been said yet/],
    [['/save nothing'], [], 2, /BAD_INPUT: nothing has been said yet/],
    [['/load /nowhere'], [], 3, /NOT_FOUND: \/load: there is no file '\/nowhere'/],
    [
      ['Hello'.repeat(40)],
      ['--max_context', '32'],
      7,
      /PROMPT_TOO_LONG: the conversation has \d+ tokens, and there is room for 32/,
    ],
    [['Hello'], ['--top_p', '0.5'], 2, /BAD_OPTION: --top_p is for drawing tokens: add --temperature/],
    [['Hello'], ['--num_samples', '2'], 2, /BAD_OPTION: there is no option --num_samples of chat/],
  ])('ends at what cannot be done: %j', async (lines, words, status, sentence) => {
    const result = await chat(lines, ...words);
    expect(result.errors).toEqual([expect.stringMatching(sentence)]);
    expect(result.status).toBe(status);
  });

  it('begins to read the weights early, and ends in the middle of an answer when it is told to', async () => {
    const words = ['chat', MODEL, ...PLACED, '--cpu_offload', '-p', 'Hello', '--log_level', 'debug'];
    let sent = false;
    const { logs, errors, status } = await runCli(words, {
      onStdout: (child) => {
        if (!sent) child.kill('SIGINT');
        sent = true;
      },
    });
    expect(logs.join()).toContain('reading layers since');
    expect(errors[0]).toBe('zero-inference: INTERRUPTED: stopped by Ctrl-C');
    expect(status).toBe(130);
  });

  it.each([
    'precious',
    // Prompts that begin as a conversation does.
    '{"messages":[{"role":"user","content":"a"}]}\n{"messages":[{"role":"user","content":"b"}]}\n',
    '{"messages":[{"role":"user","content":"a"}],"id":"1"}\n',
    '{"messages":[\0',
  ])('writes over no other file: %j', async (precious) => {
    const path = join(newFolder(), 'precious.txt');
    writeFileSync(path, precious);
    const result = await chat(['Hello', `/save ${path}`], '-n1');
    expect(result.errors).toEqual([
      expect.stringMatching(/BAD_OPTION: \/save: .* is not a saved conversation/),
    ]);
    expect(readFileSync(path, 'utf8')).toBe(precious);
  });

  it('says what to do where there is no template', async () => {
    const { errors, status } = await runCli(['chat', modelFolder('shakespeare-bloom'), '-p', 'Hello']);
    expect(errors).toEqual([expect.stringMatching(/chats need a chat template.*generate --prompt/)]);
    expect(status).toBe(2);
  });

  it('takes as much context as fits, and says so', async () => {
    const { logs, status } = await chat(['Hello'], '-n1', '--dram_memory', '34MiB');
    expect(logs.join()).toMatch(/a conversation of (2048|1024|512) tokens fits/);
    expect(status).toBe(0);
  });
});

describe('in a terminal', () => {
  const PROMPT = /> $/;

  it('stops an answer and keeps it, edits lines, and leaves at the second Ctrl-C', async () => {
    const folder = newFolder();
    const terminal = openTerminal(['chat', MODEL, ...PLACED, '--log_level', 'warn'], folder);
    await terminal.until(PROMPT);
    terminal.send('Hello', KEYS.enter);
    // Would take minutes.
    await terminal.until(/Hello\n[\s\S]{20}/);
    terminal.send(KEYS.ctrlC);
    await terminal.until(/\(stopped\)/);
    await terminal.until(PROMPT);
    terminal.send('/save a.json', KEYS.enter);
    await terminal.until(/saved 1 message/);
    await terminal.until(PROMPT);
    terminal.send('thrown away', KEYS.ctrlC);
    await terminal.until(PROMPT);
    terminal.send('"""', KEYS.enter, 'neither', KEYS.enter);
    await terminal.until(/neither\n… $/);
    terminal.send(KEYS.ctrlC);
    await terminal.until(PROMPT);
    // What was entered last but two.
    terminal.send(KEYS.up, KEYS.up, KEYS.up, KEYS.enter);
    await terminal.until(/saved 1 message/);
    await terminal.until(PROMPT);
    terminal.send('/rety', KEYS.enter);
    await terminal.until(/there is no command \/rety: did you mean \/retry\?/);
    await terminal.until(PROMPT);
    terminal.send(KEYS.ctrlC);
    await terminal.until(/Ctrl-C once more leaves/);
    await terminal.until(PROMPT);
    terminal.send(KEYS.ctrlC);
    expect(await terminal.ended).toBe(0);
    const { messages } = JSON.parse(readFileSync(join(folder, 'a.json'), 'utf8'));
    expect(messages).toHaveLength(2);
    const [, answer] = messages;
    expect(answer.content.length).toBeGreaterThan(10);
    const beginning = await continuation('u:Hello;a:', '-n4');
    expect(answer.content.slice(0, beginning.length)).toBe(beginning);
  });

  it('is stopped with the key that enters a message, and goes on behind Ctrl-Z', async () => {
    const terminal = openTerminal(['chat', MODEL, ...PLACED, '--log_level', 'warn'], newFolder());
    await terminal.until(PROMPT);
    terminal.send('Hello', KEYS.enter, KEYS.ctrlC);
    await terminal.until(/\(stopped\)/);
    await terminal.until(PROMPT);
    terminal.send(KEYS.ctrlZ);
    // The shell shows what it continues.
    await terminal.until(/chat[^\n]*\n/);
    await terminal.until(PROMPT);
    terminal.send('/undo', KEYS.enter);
    await terminal.until(/0 messages left/);
    await terminal.until(PROMPT);
    terminal.send(KEYS.ctrlD);
    expect(await terminal.ended).toBe(0);
  });

  it.each([
    ['idle', []],
    ['while it answers', ['Hello', KEYS.enter]],
  ])('ends in order when the terminal goes away, %s', async (_, keys) => {
    const terminal = openTerminal(['chat', MODEL, ...PLACED, '--log_level', 'warn'], newFolder());
    await terminal.until(PROMPT);
    terminal.send(...keys);
    if (keys.length > 0) await terminal.until(/Hello\n[\s\S]{5}/);
    terminal.hangUp();
    expect(await terminal.ended).toBe(130);
  });

  it('tells what does not fit and goes on; Ctrl-D leaves', async () => {
    const words = ['chat', MODEL, ...PLACED, '--log_level', 'warn', '--max_context', '24', '-n4'];
    const terminal = openTerminal(words, newFolder());
    await terminal.until(PROMPT);
    terminal.send('far too long '.repeat(9), KEYS.enter);
    const told = await terminal.until(/\/undo takes the last one back, \/reset begins anew/);
    expect(told).toMatch(/the conversation has \d+ tokens, and there is room for 24 with the answer/);
    await terminal.until(PROMPT);
    terminal.send('Hi', KEYS.enter);
    await terminal.until(/\(ended after \d+ tokens/);
    await terminal.until(PROMPT);
    terminal.send('/help', KEYS.enter);
    await terminal.until(/\/quit\s+leave/);
    await terminal.until(PROMPT);
    terminal.send(KEYS.ctrlD);
    expect(await terminal.ended).toBe(0);
  });
});

it('lines become messages', () => {
  const lines = new MessageLines();
  const push = (...all: string[]) => all.map((line) => lines.push(line));
  expect(push('a')).toEqual(['a']);
  expect(push('')).toEqual(['']);
  expect(push('a\\', 'b\\', '', 'c')).toEqual([undefined, undefined, 'a\nb\n', 'c']);
  expect(push('"""', 'a', '', '"""', 'b')).toEqual([undefined, undefined, undefined, 'a\n', 'b']);
  expect(push('"""a', 'b"""')).toEqual([undefined, 'a\nb']);
  expect(push('"""a"""')).toEqual(['a']);
  expect(push('""""""')).toEqual(['']);
  expect(push('a """ b')).toEqual(['a """ b']);
  expect(push('"""', 'a\\')).toEqual([undefined, undefined]);
  expect(lines.isOpen).toBe(true);
  expect(lines.end()).toBe('a\\');
  expect(lines.isOpen).toBe(false);
  expect(lines.end()).toBeUndefined();
});

it('lines with a slash are commands', () => {
  expect(parseLine('hello /help')).toEqual({ kind: 'message', text: 'hello /help' });
  expect(parseLine('//help')).toEqual({ kind: 'message', text: '/help' });
  expect(parseLine('/system  Be brief. ')).toEqual({
    kind: 'command',
    name: 'system',
    argument: 'Be brief.',
  });
  expect(parseLine('/clear')).toEqual({ kind: 'command', name: 'reset', argument: '' });
  expect(parseLine('/undo 2')).toMatchObject({ kind: 'mistake', problem: '/undo takes nothing after it' });
  expect(parseLine('/save')).toMatchObject({ kind: 'mistake', problem: '/save needs the path of a file' });
  expect(parseLine('/')).toMatchObject({ kind: 'mistake' });
  expect(parseLine('/toString')).toMatchObject({ kind: 'mistake' });
});

it('a conversation takes back what it is told to', () => {
  const talk = new Conversation(undefined);
  expect([talk.undo(), talk.undoAnswer()]).toEqual([false, false]);
  talk.say('a');
  talk.answer('b');
  talk.say('c');
  expect(talk.length).toBe(2);
  expect(talk.undoAnswer()).toBe(true);
  expect(talk.messages).toHaveLength(3);
  talk.undo();
  expect(talk.messages.map(({ content }) => content)).toEqual(['a', 'b']);
  talk.system = 's';
  talk.reset();
  expect(talk.messages).toEqual([{ role: 'system', content: 's' }]);
});
