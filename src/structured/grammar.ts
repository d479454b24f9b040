// What a text may have to obey, as clients ask for it, and checks of it that need no library.

import { OperatingError } from '../../offload/index.js';
import { type Schema, wellFormedSchema } from './schema.js';

/** Rules for a whole text. */
export type Grammar =
  /** A JSON value that a schema describes. */
  | { readonly kind: 'json_schema'; readonly schema: Schema }
  /** Any JSON object. */
  | { readonly kind: 'json_object' }
  | { readonly kind: 'regex'; readonly pattern: string }
  /** Rules in the notation of GBNF and XGrammar, of which `root` is the whole text. */
  | { readonly kind: 'ebnf'; readonly rules: string }
  /** One of these. */
  | { readonly kind: 'choice'; readonly texts: readonly string[] }
  | { readonly kind: 'layout'; readonly layout: Layout };

/** Texts made of parts, as XGrammar's structural tags are. */
export type Layout =
  | { readonly type: 'const_string'; readonly value: string }
  | { readonly type: 'json_schema'; readonly json_schema: Schema }
  | { readonly type: 'qwen_xml_parameter'; readonly json_schema: Schema }
  | { readonly type: 'any_text' }
  | { readonly type: 'regex'; readonly pattern: string }
  | { readonly type: 'grammar'; readonly grammar: string }
  | { readonly type: 'sequence' | 'or'; readonly elements: readonly Layout[] }
  | TagLayout
  | {
      readonly type: 'tags_with_separator';
      readonly separator: string;
      readonly tags: readonly TagLayout[];
      readonly at_least_one?: boolean;
      readonly stop_after_first?: boolean;
    }
  | {
      readonly type: 'triggered_tags';
      readonly triggers: readonly string[];
      readonly tags: readonly TagLayout[];
      readonly at_least_one?: boolean;
      readonly stop_after_first?: boolean;
    };

export interface TagLayout {
  readonly type: 'tag';
  readonly begin: string;
  readonly content: Layout;
  readonly end: string;
}

/** So large a grammar is refused: what it is made of takes many times as much. */
const MOST_GRAMMAR_CHARACTERS = 256 * 1024;

/** What of it is checked without a library: throws BAD_INPUT. Schemas are brought into the form that the library gets right. */
export function wellFormed(grammar: Grammar): Grammar {
  const text = JSON.stringify(grammar);
  if (text.length > MOST_GRAMMAR_CHARACTERS) {
    throw new OperatingError(
      'BAD_INPUT',
      `the grammar has ${text.length} characters, and at most ${MOST_GRAMMAR_CHARACTERS} are taken: make it smaller`,
    );
  }
  if (grammar.kind === 'json_schema') return { ...grammar, schema: wellFormedSchema(grammar.schema) };
  if (grammar.kind === 'layout') return { ...grammar, layout: wellFormedLayout(grammar.layout) };
  if (grammar.kind !== 'choice') return grammar;
  if (grammar.texts.length > 0 && grammar.texts.every((one) => one !== '')) return grammar;
  throw new OperatingError('BAD_INPUT', 'a choice needs at least one text, and none that is empty');
}

function wellFormedLayout(layout: Layout): Layout {
  switch (layout.type) {
    case 'json_schema':
    case 'qwen_xml_parameter':
      return { ...layout, json_schema: wellFormedSchema(layout.json_schema) };
    case 'sequence':
    case 'or':
      return { ...layout, elements: layout.elements.map(wellFormedLayout) };
    case 'tag':
      return wellFormedTag(layout);
    case 'tags_with_separator':
    case 'triggered_tags':
      return { ...layout, tags: layout.tags.map(wellFormedTag) };
    case 'const_string':
    case 'any_text':
    case 'regex':
    case 'grammar':
      return layout;
  }
}

function wellFormedTag(tag: TagLayout): TagLayout {
  return { ...tag, content: wellFormedLayout(tag.content) };
}
