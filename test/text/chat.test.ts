// Chat templates: where they are found, what they are given, what is said when there is none or it refuses.

import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { OperatingError } from '../../offload/index.js';
import { loadChatTemplate, type Message } from '../../src/text/chat.js';
import { loadTokenizer } from '../../src/text/tokenizer/tokenizer.js';
import { modelFolder } from '../helpers/fixtures.js';
import { tempFolder } from '../helpers/temp-folder.js';

const HELLO: readonly Message[] = [{ role: 'user', content: 'Hello' }];
/** ChatML, as Qwen and many others have it. */
const CHATML =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

function folderOf(files: Readonly<Record<string, unknown>>): string {
  const folder = tempFolder();
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));
  }
  return folder;
}

async function rendered(files: Readonly<Record<string, unknown>>, messages = HELLO): Promise<string> {
  return (await loadChatTemplate(folderOf(files))).render(messages);
}

async function failure(work: Promise<unknown>): Promise<OperatingError> {
  const error: unknown = await work.catch((thrown: unknown) => thrown);
  if (error instanceof OperatingError) return error;
  throw new Error(`expected an operating error, got ${String(error)}`);
}

describe('the template', () => {
  it('comes from chat_template.jinja, tokenizer_config.json or chat_template.json, the first first', async () => {
    const settings = { 'tokenizer_config.json': { chat_template: 'settings' } };
    const json = { 'chat_template.json': { chat_template: 'json' } };
    expect(await rendered(settings)).toBe('settings');
    expect(await rendered(json)).toBe('json');
    expect(await rendered({ ...settings, ...json })).toBe('settings');
    expect(await rendered({ ...settings, ...json, 'chat_template.jinja': 'jinja' })).toBe('jinja');
    expect(await rendered({ 'chat_template.jinja': 'alone' })).toBe('alone');
  });

  it('may be one of several by name', async () => {
    const named = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'plain' },
    ];
    expect(await rendered({ 'tokenizer_config.json': { chat_template: named } })).toBe('plain');
    const error = await failure(rendered({ 'tokenizer_config.json': { chat_template: named.slice(0, 1) } }));
    expect(error.code).toBe('BAD_TOKENIZER');
    expect(error.message).toContain('it has tool_use');
  });

  it('gets the messages and asks for an answer', async () => {
    const messages: Message[] = [{ role: 'system', content: 'Be brief.' }, ...HELLO];
    expect(await rendered({ 'chat_template.jinja': CHATML }, messages)).toBe(
      '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  it('gets the special tokens, written either way', async () => {
    const settings = { bos_token: '<s>', eos_token: { content: '</s>' }, pad_token: null };
    const template = '{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}';
    const files = { 'tokenizer_config.json': settings, 'chat_template.jinja': template };
    expect(await rendered(files)).toBe('<s>Hello</s>');
  });

  it('has no tools: neither an empty list of them, nor an unknown name', async () => {
    // The ways in which published templates ask.
    const asks = [
      '{% if tools %}a{% endif %}',
      '{% if tools is not none %}b{% endif %}',
      '{% if not tools is defined %}{% set tools = none %}{% endif %}{% if tools is none %}c{% endif %}',
      '{% if tools is iterable and tools | length > 0 %}d{% endif %}',
      '{% if documents %}e{% endif %}',
    ];
    expect(await rendered({ 'chat_template.jinja': asks.join('') })).toBe('c');
  });

  it('gets the special tokens of special_tokens_map.json, and those of its class', async () => {
    const template = '{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}';
    const map = { bos_token: '<s>', eos_token: { content: '</s>', lstrip: false } };
    const files = { 'chat_template.jinja': template, 'special_tokens_map.json': map };
    expect(await rendered(files)).toBe('<s>|</s>||');
    expect(await rendered({ ...files, 'config.json': { model_type: 'qwen2' } })).toBe(
      '<s>|</s>|<|endoftext|>|<|endoftext|>',
    );
  });

  it('reads line ends of Windows as its own, within texts as well', async () => {
    const lines = ['{% for m in messages %}', "{{ '<", ">' + m.content }}", '{% endfor %}', 'x', ''];
    const unix = await rendered({ 'chat_template.jinja': lines.join('\n') });
    expect(unix).toBe('<\n>Hello\nx');
    for (const end of ['\r\n', '\r'])
      expect(await rendered({ 'chat_template.jinja': lines.join(end) })).toBe(unix);
  });

  it('is not one of those with names only', async () => {
    const folder = folderOf({ 'tokenizer_config.json': { chat_template: 'plain' } });
    mkdirSync(join(folder, 'additional_chat_templates'));
    writeFileSync(join(folder, 'additional_chat_templates', 'tool_use.jinja'), 'tools');
    expect((await failure(loadChatTemplate(folder))).message).toContain('tool_use.jinja');
    writeFileSync(join(folder, 'chat_template.jinja'), 'file');
    expect((await loadChatTemplate(folder)).render(HELLO)).toBe('file');
  });

  it('loses the line ends and the blanks of its own blocks, as in transformers', async () => {
    const template =
      '{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n';
    expect(await rendered({ 'chat_template.jinja': template })).toBe('Hello\n');
  });
});

describe('what is wrong', () => {
  it('no template', async () => {
    const { code, message } = await failure(loadChatTemplate(modelFolder('llama')));
    expect(code).toBe('BAD_OPTION');
    expect(message).toContain('chat_template.jinja, tokenizer_config.json, chat_template.json');
  });

  it('a template that is malformed', async () => {
    const { code, message } = await failure(rendered({ 'chat_template.jinja': '{% for %}' }));
    expect(code).toBe('BAD_TOKENIZER');
    expect(message).toContain('chat_template.jinja is malformed');
    const other = await failure(rendered({ 'tokenizer_config.json': { chat_template: 5 } }));
    expect(other.code).toBe('BAD_TOKENIZER');
  });

  it('what Jinja has, and this does not, is refused by name when a template comes to it', async () => {
    for (const [template, name] of [
      ["{{ 'a'|urlencode }}", "the filter 'urlencode'"],
      ["{{ 'a'|e }}", "the filter 'e'"],
      ['{% block x %}{% endblock %}', "the tag 'block'"],
      ["{{ 'a'.encode() }}", "'encode' of a str"],
      ["{{ ('<'|safe) ~ 'a' }}", "the filter 'safe'"],
      ['{{ messages[0].items() }}', 'writing out a dict_items'],
      ["{{ strftime_now('%Q') }}", "the time format '%Q'"],
    ]) {
      const { code, message } = await failure(rendered({ 'chat_template.jinja': template }));
      expect(code, template).toBe('UNSUPPORTED');
      expect(message).toContain(name);
    }
    expect(await rendered({ 'chat_template.jinja': '{% if tools %}{{ tools|urlencode }}{% endif %}x' })).toBe(
      'x',
    );
  });

  it('nesting without end, of expressions and of macros', async () => {
    const macro = '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}';
    expect((await failure(rendered({ 'chat_template.jinja': macro }))).code).toBe('BAD_INPUT');
    const deep = `{{ ${'('.repeat(100_000)}1`;
    expect((await failure(rendered({ 'chat_template.jinja': deep }))).code).toBe('BAD_TOKENIZER');
  });

  it('a template that is not UTF-8', async () => {
    const folder = folderOf({});
    writeFileSync(join(folder, 'chat_template.jinja'), Buffer.from([0x61, 0xff]));
    expect((await failure(loadChatTemplate(folder))).message).toContain('not UTF-8');
  });

  it('messages that the template refuses', async () => {
    const template = "{{ raise_exception('System role not supported') }}";
    const { code, message } = await failure(rendered({ 'chat_template.jinja': template }));
    expect(code).toBe('BAD_INPUT');
    expect(message).toContain('System role not supported');
  });
});

it('the start token comes once: from the template, and not from the tokenizer again', async () => {
  const folder = tempFolder();
  cpSync(modelFolder('stories260K'), folder, { recursive: true });
  const tokenizer = await loadTokenizer(folder);
  const start = tokenizer.bosTokenId ?? -1;
  expect((await tokenizer.encode('Hello')).filter((id) => id === start)).toHaveLength(1);
  writeFileSync(join(folder, 'chat_template.jinja'), '<s>{{ messages[0].content }}');
  const chat = (await loadChatTemplate(folder)).render(HELLO);
  const ids = await tokenizer.encodeBare(chat);
  expect(ids[0]).toBe(start);
  expect(ids.filter((id) => id === start)).toHaveLength(1);
  // Where the template has none, none is added: transformers does the same.
  expect(await tokenizer.encodeBare('Hello')).not.toContain(start);
});
