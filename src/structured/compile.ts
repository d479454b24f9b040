// Grammars of clients as those of the library.

import { mended } from './ebnf.js';
import type { Grammar, Layout, TagLayout } from './grammar.js';
import type { Schema } from './schema.js';
import type { CompiledGrammar, GrammarCompiler, XGrammar } from './xgrammar.js';

type Library = Pick<XGrammar, 'Grammar'>;
type Parsed = Awaited<ReturnType<XGrammar['Grammar']['fromEBNF']>>;

/** So long are the rules of what is refused: a few characters can stand for millions of them. */
const MOST_RULES_CHARACTERS = 1024 * 1024;

/** Throws for what is no grammar, or too large. */
export async function parseGrammar(library: Library, grammar: Grammar): Promise<void> {
  const parsed = await parse(library, grammar);
  const { length } = parsed.toString();
  parsed.dispose();
  if (length > MOST_RULES_CHARACTERS)
    throw new Error(
      `its rules would take ${length} characters, and at most ${MOST_RULES_CHARACTERS} are taken`,
    );
}

export async function compileGrammar(
  library: Library,
  compiler: GrammarCompiler,
  grammar: Grammar,
): Promise<CompiledGrammar> {
  const parsed = await parse(library, grammar);
  try {
    return await compiler.compileGrammar(parsed);
  } finally {
    parsed.dispose();
  }
}

async function parse(library: Library, grammar: Grammar): Promise<Parsed> {
  switch (grammar.kind) {
    case 'json_schema':
      return library.Grammar.fromEBNF(await schemaRules(library, grammar.schema));
    case 'json_object':
      return library.Grammar.fromEBNF(await schemaRules(library, { type: 'object' }));
    case 'regex':
      return library.Grammar.fromStructuralTag({ type: 'regex', pattern: grammar.pattern });
    case 'ebnf':
      return library.Grammar.fromEBNF(grammar.rules);
    case 'choice':
      return library.Grammar.fromEBNF(`root ::= ${grammar.texts.map((text) => quoted(text)).join(' | ')}\n`);
    case 'layout': {
      const format = (await withRules(library, grammar.layout)) as unknown as Record<string, unknown>;
      return library.Grammar.fromStructuralTag({ type: 'structural_tag', format });
    }
  }
}

async function schemaRules(library: Library, schema: Schema): Promise<string> {
  const parsed = await library.Grammar.fromJSONSchema(JSON.stringify(schema), true);
  const rules = parsed.toString();
  parsed.dispose();
  return mended(rules);
}

/** Schemas become rules, which are mended. */
async function withRules(library: Library, layout: Layout): Promise<Layout> {
  switch (layout.type) {
    case 'json_schema':
      return { type: 'grammar', grammar: await schemaRules(library, layout.json_schema) };
    case 'sequence':
    case 'or':
      return {
        ...layout,
        elements: await Promise.all(layout.elements.map((one) => withRules(library, one))),
      };
    case 'tag':
      return tagWithRules(library, layout);
    case 'tags_with_separator':
    case 'triggered_tags':
      return { ...layout, tags: await Promise.all(layout.tags.map((one) => tagWithRules(library, one))) };
    case 'qwen_xml_parameter':
    case 'const_string':
    case 'any_text':
    case 'regex':
    case 'grammar':
      return layout;
  }
}

async function tagWithRules(library: Library, tag: TagLayout): Promise<TagLayout> {
  return { ...tag, content: await withRules(library, tag.content) };
}

/** As a text between quotes in rules. */
function quoted(text: string): string {
  const escaped = [...text].map((character) => {
    const code = character.codePointAt(0) ?? 0;
    if (character === '"' || character === '\\') return `\\${character}`;
    return code < 0x20 || code === 0x7f ? `\\x${code.toString(16).padStart(2, '0')}` : character;
  });
  return `"${escaped.join('')}"`;
}
