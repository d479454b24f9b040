// Chat templates beside transformers: expressions, statements, whitespace, and templates in the style of published ones.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  Template,
  TemplateRuntimeError,
  TemplateSyntaxError,
  UnsupportedError,
} from '../../src/text/jinja/index.js';
import { formatTime } from '../../src/text/jinja/time.js';
import { modelFolder } from '../helpers/fixtures.js';

interface Result {
  readonly text?: string;
  readonly error?: string;
}

interface Templates {
  readonly chats: readonly unknown[];
  readonly names: Readonly<Record<string, string>>;
  /** A template, and what transformers makes of each chat with it. */
  readonly templates: readonly (readonly [string, ...Result[]])[];
}

const { chats, names, templates }: Templates = JSON.parse(
  readFileSync(join(modelFolder('gpt2'), '..', '..', 'text', 'chat-templates.json'), 'utf8'),
);
/** What differs from one run to the next. */
const isClock = (template: string) => template.includes('strftime_now');

function outcome(template: string, messages: unknown): string | Error {
  const variables = { ...names, tools: null, documents: null, messages, add_generation_prompt: true };
  try {
    return new Template(template).render(variables);
  } catch (error) {
    if (error instanceof TemplateRuntimeError || error instanceof TemplateSyntaxError) return error;
    if (error instanceof UnsupportedError) return error;
    throw error;
  }
}

describe('as transformers renders it, or not at all', () => {
  const unsupported: string[] = [];

  it('each template with each chat', () => {
    for (const [template, ...results] of templates) {
      for (const [index, { text, error }] of results.entries()) {
        const ours = outcome(template, chats[index]);
        if (ours instanceof UnsupportedError) unsupported.push(template);
        else if (error !== undefined) expect(ours, `${template}: ${error}`).toBeInstanceOf(Error);
        else if (!isClock(template)) expect(ours, template).toBe(text);
      }
    }
  });

  it('few are not supported', () => {
    expect(templates.length).toBeGreaterThan(450);
    expect(new Set(unsupported).size).toBeLessThan(15);
  });
});

it('the clock is local, in English', () => {
  const at = new Date(2024, 6, 6, 15, 4, 9);
  expect(formatTime(at, '%A %a %B %b %d %-d %e %j %Y %y %H:%M:%S %I %p %% %F')).toBe(
    'Saturday Sat July Jul 06 6  6 188 2024 24 15:04:09 03 PM % 2024-07-06',
  );
  const template = new Template('{{ strftime_now("%d %b %Y") }}');
  expect(template.render({}, () => at)).toBe('06 Jul 2024');
});
