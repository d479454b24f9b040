// Chat templates: messages become the text that a chat model was trained on, as the checkpoint's own template writes it.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { OperatingError } from '../offload/index.js';
import { isJsonObject, type JsonObject, readOptionalJsonObject, reason, systemCode } from './json-file.js';

export interface Message {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface ChatTemplate {
  /**
   * The conversation and the beginning of the model's answer. Special tokens are written out in it, the start token
   * too where the model wants one: it is to be encoded without adding any. Throws BAD_INPUT when the template refuses.
   */
  render(messages: readonly Message[]): string;
}

/** In the order in which transformers looks. */
const PLACES = ['chat_template.jinja', 'chat_template.json', 'tokenizer_config.json'] as const;

/** Throws BAD_OPTION when the checkpoint has no template, BAD_TOKENIZER for one that is malformed. */
export async function loadChatTemplate(folder: string): Promise<ChatTemplate> {
  const settings =
    (await readOptionalJsonObject(join(folder, 'tokenizer_config.json'), 'BAD_TOKENIZER')) ?? {};
  const found = await findTemplate(folder, settings);
  if (!found) {
    throw new OperatingError(
      'BAD_OPTION',
      `--chat needs a chat template, and ${folder} has none in ${PLACES.join(', ')}: leave --chat out, or take a ` +
        `checkpoint that is made for chats`,
    );
  }
  // Loaded here because other runs should not pay for it.
  const { Template } = await import('@huggingface/jinja');
  let template: InstanceType<typeof Template>;
  try {
    template = new Template(found.text);
  } catch (error) {
    throw new OperatingError(
      'BAD_TOKENIZER',
      `the chat template in ${found.path} is malformed: ${reason(error)}`,
      {
        cause: error,
      },
    );
  }
  const names = specialTokens(settings);
  return {
    render(messages) {
      // As transformers renders without tools or documents: they are none, which is not the same as absent or empty.
      const none = { tools: null, documents: null };
      try {
        return template.render({ ...names, ...none, messages, add_generation_prompt: true });
      } catch (error) {
        throw new OperatingError(
          'BAD_INPUT',
          `the chat template in ${found.path} refuses the messages: ${reason(error)}`,
          { cause: error },
        );
      }
    },
  };
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
  const [jinjaPath, jsonPath, settingsPath] = PLACES.map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  const jinja = await readOptionalText(jinjaPath);
  if (jinja !== undefined) return { text: jinja, path: jinjaPath };
  const json = await readOptionalJsonObject(jsonPath, 'BAD_TOKENIZER');
  for (const [path, object] of [
    [jsonPath, json],
    [settingsPath, settings],
  ] as const) {
    const stored = object?.chat_template;
    if (stored !== undefined && stored !== null) return { text: chosenTemplate(stored, path), path };
  }
  return undefined;
}

/** One text, or a list of named ones, of which `default` is the one for plain chats. */
function chosenTemplate(stored: unknown, path: string): string {
  if (typeof stored === 'string') return stored;
  const named = (Array.isArray(stored) ? stored : []).filter(isJsonObject);
  const plain = named.find(({ name }) => name === 'default');
  if (typeof plain?.template === 'string') return plain.template;
  const names = named.map(({ name }) => String(name)).join(', ');
  throw new OperatingError(
    'BAD_TOKENIZER',
    `${path}: chat_template is neither a text nor a list with one named 'default'${names ? ` (it has ${names})` : ''}`,
  );
}

/** `bos_token`, `eos_token` and all others, by name: each is its text, or an object that has it as `content`. */
function specialTokens(settings: JsonObject): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const [name, value] of Object.entries(settings)) {
    const text = isJsonObject(value) ? value.content : value;
    if (name.endsWith('_token') && typeof text === 'string') tokens[name] = text;
  }
  return tokens;
}

async function readOptionalText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw new OperatingError('BAD_TOKENIZER', `${path} cannot be read: ${reason(error)}`, { cause: error });
  }
}
