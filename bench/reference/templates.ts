// Compares rendered templates with those of transformers, which make_templates.py wrote:
// node dist/bench/reference/templates.js CASES.json

import { readFileSync } from 'node:fs';
import {
  Template,
  TemplateRuntimeError,
  TemplateSyntaxError,
  UnsupportedError,
} from '../../src/text/jinja/index.js';

interface Case {
  readonly template: string;
  readonly chat: readonly unknown[];
  readonly text?: string;
  readonly error?: string;
}

interface Cases {
  readonly names: Readonly<Record<string, string>>;
  readonly cases: readonly Case[];
}

const { names, cases } = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as Cases;
const counts = { equal: 0, other: 0, refusedByName: 0, bothRefuse: 0, refused: 0, lenient: 0 };
const unsupported = new Map<string, number>();
for (const { template, chat, text, error } of cases) {
  const variables = { ...names, tools: null, documents: null, messages: chat, add_generation_prompt: true };
  let ours: string | undefined;
  let refusal = '';
  try {
    ours = new Template(template).render(variables);
  } catch (thrown) {
    if (thrown instanceof UnsupportedError) {
      if (text !== undefined) unsupported.set(thrown.message, (unsupported.get(thrown.message) ?? 0) + 1);
      refusal = 'unsupported';
    } else if (thrown instanceof TemplateRuntimeError || thrown instanceof TemplateSyntaxError) {
      refusal = thrown.message;
    } else throw new Error(`${template}: ${thrown instanceof Error ? thrown.stack : thrown}`);
  }
  if (ours === undefined) {
    if (text === undefined) counts.bothRefuse++;
    else if (refusal === 'unsupported') counts.refusedByName++;
    else {
      counts.refused++;
      console.log(`REFUSED ${JSON.stringify(template)}: ${refusal}; transformers: ${JSON.stringify(text)}`);
    }
  } else if (text === undefined) {
    counts.lenient++;
    console.log(`LENIENT ${JSON.stringify(template)}: ${JSON.stringify(ours)}; transformers: ${error}`);
  } else if (ours === text) counts.equal++;
  else {
    counts.other++;
    console.log(
      `OTHER ${JSON.stringify(template)}: ${JSON.stringify(ours)}; transformers: ${JSON.stringify(text)}`,
    );
  }
}
for (const [what, count] of unsupported) console.log(`${count} × not supported: ${what}`);
console.log(JSON.stringify(counts));
if (counts.other > 0) process.exitCode = 1;
