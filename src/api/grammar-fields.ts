// What an answer has to obey, as OpenAI's requests and vLLM's say it.

import { z } from 'zod';
import type { Grammar } from '../structured/grammar.js';
import type { Schema } from '../structured/schema.js';
import { badField, unsupportedField } from './api-error.js';

const SCHEMA = z.union([z.boolean(), z.record(z.string(), z.unknown())]);

export const RESPONSE_FORMAT = z.looseObject({
  type: z.string(),
  json_schema: z.looseObject({ name: z.string().optional(), schema: SCHEMA.optional() }).optional(),
});

const STRUCTURED = z.strictObject({
  json: z.union([SCHEMA, z.string()]).optional(),
  json_object: z.boolean().optional(),
  regex: z.string().min(1).optional(),
  choice: z.array(z.string().min(1)).min(1).max(1024).optional(),
  grammar: z.string().min(1).optional(),
});

/** As vLLM's clients send them. */
export const GRAMMAR_FIELDS = {
  response_format: RESPONSE_FORMAT.nullable().optional(),
  structured_outputs: STRUCTURED.nullable().optional(),
  guided_json: z.union([SCHEMA, z.string()]).nullable().optional(),
  guided_regex: z.string().min(1).nullable().optional(),
  guided_choice: STRUCTURED.shape.choice.unwrap().nullable().optional(),
  guided_grammar: z.string().min(1).nullable().optional(),
};

export interface GrammarFields {
  readonly response_format?: z.infer<typeof RESPONSE_FORMAT> | null | undefined;
  readonly structured_outputs?: z.infer<typeof STRUCTURED> | null | undefined;
  readonly guided_json?: Schema | string | null | undefined;
  readonly guided_regex?: string | null | undefined;
  readonly guided_choice?: string[] | null | undefined;
  readonly guided_grammar?: string | null | undefined;
}

/** Undefined for a text that is free. Throws an ApiError. */
export function grammarOf(fields: GrammarFields): Grammar | undefined {
  const { structured_outputs: structured, guided_json: json } = fields;
  const asked = [
    formatGrammar(fields.response_format),
    structured && structuredGrammar(structured, 'structured_outputs'),
    structuredGrammar(
      {
        json: json ?? undefined,
        regex: fields.guided_regex ?? undefined,
        choice: fields.guided_choice ?? undefined,
        grammar: fields.guided_grammar ?? undefined,
      },
      'guided_json',
    ),
  ].filter((one) => one !== undefined && one !== null);
  if (asked.length > 1)
    throw badField('response_format', 'an answer can obey one format: leave all but one of them out');
  return asked[0];
}

/** @param param what is named where it is wrong */
export function formatGrammar(
  format: GrammarFields['response_format'],
  param = 'response_format',
): Grammar | undefined {
  if (!format || format.type === 'text') return undefined;
  if (format.type === 'json_object') return { kind: 'json_object' };
  if (format.type !== 'json_schema')
    throw unsupportedField(`${param}.type`, `${param}.type may be text, json_object or json_schema`);
  const schema = format.json_schema?.schema;
  if (schema === undefined) throw badField(param, `${param} has no schema: give a JSON schema`);
  return { kind: 'json_schema', schema };
}

function structuredGrammar(
  { json, json_object: isObject, regex, choice, grammar }: z.infer<typeof STRUCTURED>,
  param: string,
): Grammar | undefined {
  const asked: (Grammar | undefined)[] = [
    json === undefined ? undefined : { kind: 'json_schema', schema: schemaOf(json, param) },
    isObject ? { kind: 'json_object' } : undefined,
    regex === undefined ? undefined : { kind: 'regex', pattern: regex },
    choice && { kind: 'choice', texts: choice },
    grammar === undefined ? undefined : { kind: 'ebnf', rules: grammar },
  ];
  const [first, more] = asked.filter((one) => one !== undefined);
  if (more) throw badField(param, 'an answer can obey one grammar: leave all but one of them out');
  return first;
}

function schemaOf(json: Schema | string, param: string): Schema {
  if (typeof json !== 'string') return json;
  try {
    const read = SCHEMA.safeParse(JSON.parse(json));
    if (read.success) return read.data;
  } catch {
    // Said below.
  }
  throw badField(param, `${param} is no JSON schema: give an object, or the text of one`);
}
