// Chat templates: messages become the text that a chat model was trained on, as the checkpoint's own template writes it.

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { OperatingError } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import {
  isJsonObject,
  type JsonObject,
  MOST_JSON_BYTES,
  readOptionalJsonObject,
  reason,
} from '../files/json-file.js';
import { readSmallFile } from '../files/regular-file.js';
import type * as Jinja from './jinja/index.js';
import { ADDITIONAL_TEMPLATES, readTokenizerSettings, specialTokensOf } from './tokenizer/settings.js';

export interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/** With what tools and thoughts add to messages: whatever templates look for. */
export type TemplateMessage = Readonly<Record<string, unknown>> & { readonly role: string };

export interface ChatTemplate {
  /**
   * The conversation and the beginning of the model's answer. Special tokens are written out in it, the start token
   * too where the model wants one: it is to be encoded without adding any. Throws BAD_INPUT when the template refuses.
   * @param more variables of the template, such as `tools`
   */
  render(messages: readonly (Message | TemplateMessage)[], more?: Readonly<Record<string, unknown>>): string;
}

/** Names in the order in which transformers looks; the last is for processors of pictures and sound, a last resort here. */
const PLACES = ['chat_template.jinja', 'tokenizer_config.json', 'chat_template.json'] as const;

/**
 * Errors: BAD_OPTION when the checkpoint has no template, BAD_TOKENIZER for one that is malformed, UNSUPPORTED for one that
 * asks for what chat templates do not have.
 */
export async function loadChatTemplate(folder: string): Promise<ChatTemplate> {
  const files = await readTokenizerSettings(folder);
  const found = await findTemplate(folder, files.settings);
  if (!found) {
    throw new OperatingError(
      'BAD_OPTION',
      `chats need a chat template, as do --chat and prompts with 'messages', and ${folder} has none in ` +
        `${PLACES.join(', ')}: continue plain text (generate --prompt), or take a checkpoint that is made for chats`,
    );
  }
  const { path } = found;
  // Loaded here because other runs should not pay for it.
  const jinja = await import('./jinja/index.js');
  const template = parse(jinja, found);
  const names = [...specialTokensOf(files).named].map(([role, { content }]) => [role, content] as const);
  // transformers renders with `none` for tools and documents, which is not the same as absent or empty.
  const variables = {
    ...Object.fromEntries(names),
    tools: null,
    documents: null,
    add_generation_prompt: true,
  };
  return {
    render(messages, more = {}) {
      try {
        return template.render({ ...variables, ...more, messages });
      } catch (error) {
        if (error instanceof jinja.UnsupportedError) throw unsupported(path, error);
        if (!(error instanceof jinja.TemplateRuntimeError || error instanceof RangeError)) throw error;
        const sentence = `the chat template in ${path} refuses the messages: ${reason(error)}`;
        throw new OperatingError('BAD_INPUT', sentence, { cause: error });
      }
    },
  };
}

function parse(jinja: typeof Jinja, { text, path }: FoundTemplate): Jinja.Template {
  try {
    return new jinja.Template(text);
  } catch (error) {
    if (error instanceof jinja.UnsupportedError) throw unsupported(path, error);
    if (!(error instanceof jinja.TemplateSyntaxError || error instanceof RangeError)) throw error;
    const sentence = `the chat template in ${path} is malformed: ${reason(error)}`;
    throw new OperatingError('BAD_TOKENIZER', sentence, { cause: error });
  }
}

function unsupported(path: string, error: Error): OperatingError {
  return new OperatingError(
    'UNSUPPORTED',
    `the chat template in ${path} uses ${error.message}, which is not supported: write it another way in a ` +
      'chat_template.jinja beside it',
    { cause: error },
  );
}

/** The text that `loadChatTemplate` takes; undefined where there is none. Throws BAD_TOKENIZER. */
export async function chatTemplateText(folder: string): Promise<string | undefined> {
  const path = join(folder, 'tokenizer_config.json');
  const settings = (await readOptionalJsonObject(path, 'BAD_TOKENIZER')) ?? {};
  return (await findTemplate(folder, settings))?.text;
}

interface FoundTemplate {
  readonly text: string;
  readonly path: string;
}

async function findTemplate(folder: string, settings: JsonObject): Promise<FoundTemplate | undefined> {
  const [jinjaPath, settingsPath, jsonPath] = PLACES.map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  const jinja = await readOptionalText(jinjaPath);
  if (jinja !== undefined) return { text: jinja, path: jinjaPath };
  await refuseOnlyNamed(folder);
  if (isPresent(settings.chat_template))
    return { text: chosenTemplate(settings.chat_template, settingsPath), path: settingsPath };
  const stored = (await readOptionalJsonObject(jsonPath, 'BAD_TOKENIZER'))?.chat_template;
  return isPresent(stored) ? { text: chosenTemplate(stored, jsonPath), path: jsonPath } : undefined;
}

function isPresent(value: unknown): boolean {
  return value !== undefined && value !== null;
}

/** Templates with names, for tools and the like, take the place of those of tokenizer_config.json, the plain one too. */
async function refuseOnlyNamed(folder: string): Promise<void> {
  const path = join(folder, ADDITIONAL_TEMPLATES);
  const names = ((await ifThere(path, readdir(path))) ?? []).filter((name) => name.endsWith('.jinja'));
  if (names.length === 0 || names.includes('default.jinja')) return;
  throw new OperatingError(
    'BAD_TOKENIZER',
    `${path} has ${names.join(', ')}, but there is no chat_template.jinja for plain chats: add it`,
  );
}

/** One template, or several by name in a list or an object, of which `default` is the one for plain chats. */
function chosenTemplate(stored: unknown, path: string): string {
  if (typeof stored === 'string') return stored;
  const listed = isJsonObject(stored)
    ? Object.entries(stored).map(([name, template]) => ({ name, template }))
    : Array.isArray(stored)
      ? stored
      : [];
  const named = listed.filter(isJsonObject);
  const plain = named.find(({ name }) => name === 'default');
  if (typeof plain?.template === 'string') return plain.template;
  const names = named.map(({ name }) => String(name)).join(', ');
  throw new OperatingError(
    'BAD_TOKENIZER',
    `${path}: chat_template is neither a text nor a list with one named 'default'${names ? ` (it has ${names})` : ''}`,
  );
}

async function readOptionalText(path: string): Promise<string | undefined> {
  const bytes = await readSmallFile(path, MOST_JSON_BYTES, 'BAD_TOKENIZER');
  if (!bytes) return undefined;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new OperatingError('BAD_TOKENIZER', `${path} is not UTF-8 text: convert it`, { cause: error });
  }
}
