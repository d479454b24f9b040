// The grammar library in a thread of its own: it is a script for browsers, and says what is wrong with a grammar on the console.

import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type * as Library from '@mlc-ai/web-xgrammar';

export type { CompiledGrammar, GrammarCompiler, GrammarMatcher, TokenizerInfo } from '@mlc-ai/web-xgrammar';
export type XGrammar = typeof Library;

const said: string[] = [];

/** Only in a thread that does nothing else: the library wants globals, and the console is taken from it. */
export async function loadXGrammar(): Promise<XGrammar> {
  const path = fileURLToPath(import.meta.resolve('@mlc-ai/web-xgrammar'));
  const globals = globalThis as Record<string, unknown>;
  Object.assign(globals, {
    require: createRequire(path),
    __filename: path,
    __dirname: dirname(path),
  });
  const note = (...words: unknown[]) => void said.push(words.join(' '));
  Object.assign(console, { error: note, warn: note, log: note });
  await import('@mlc-ai/web-xgrammar');
  return globals.xgrammar as XGrammar;
}

/** What it said last was wrong, in its words, without the places in its sources. */
export function lastComplaint(): string | undefined {
  const line = said.findLast((one) => one.includes('[FATAL]'));
  said.length = 0;
  return line
    ?.replace(/^\[FATAL\] \S+: /, '')
    .replace(/^Check failed: \(.*?\) is false: /, '')
    .trim();
}
