// The script of a thread that compiles grammars and says which tokens may come next.

import { parentPort, workerData } from 'node:worker_threads';
import { compileGrammar, parseGrammar } from './compile.js';
import {
  type Answer,
  type Command,
  type Numbered,
  PROGRESS,
  type Step,
  type Vocabulary,
} from './messages.js';
import { isInNoText, SecondBytes } from './utf8.js';
import {
  type CompiledGrammar,
  type GrammarCompiler,
  type GrammarMatcher,
  lastComplaint,
  loadXGrammar,
  type XGrammar,
} from './xgrammar.js';

/** Compiled ones that are kept for texts to come. */
const MOST_KEPT = 64;

interface Compiled {
  readonly grammar: CompiledGrammar;
  users: number;
}

interface Open {
  readonly matcher: GrammarMatcher;
  readonly compiled: Compiled;
  readonly words: Int32Array;
}

const progress = new Int32Array((workerData as { progress: SharedArrayBuffer }).progress);
let library: Promise<XGrammar> | undefined;
let compiler: GrammarCompiler | undefined;
let secondBytes = new SecondBytes([]);
/** The one that was used last is the last. */
const compiled = new Map<string, Compiled>();
const open = new Map<number, Open>();

async function answer({ id, command }: Numbered): Promise<Answer> {
  Atomics.store(progress, PROGRESS.command, id);
  library ??= loadXGrammar();
  const xgrammar = await library;
  try {
    return { id, ...(await obey(xgrammar, command)) };
  } catch (error) {
    return { id, problem: problemOf(error) };
  }
}

async function obey(xgrammar: XGrammar, command: Command): Promise<Omit<Answer, 'id'>> {
  switch (command.kind) {
    case 'vocabulary':
      compiler = await compilerOf(xgrammar, command.vocabulary);
      return {};
    case 'check':
      await parseGrammar(xgrammar, command.grammar);
      return {};
    case 'compile':
      await compiledFor(xgrammar, command);
      return {};
    case 'step': {
      const stuck: { matcher: number; problem: string }[] = [];
      for (const step of command.steps) {
        Atomics.store(progress, PROGRESS.matcher, step.matcher);
        const problem = await take(xgrammar, step).catch(problemOf);
        if (problem !== undefined) stuck.push({ matcher: step.matcher, problem });
      }
      return { stuck };
    }
    case 'close':
      for (const matcher of command.matchers) close(matcher);
      return {};
  }
}

function problemOf(error: unknown): string {
  return lastComplaint() ?? (error instanceof Error ? error.message : String(error));
}

async function compilerOf(xgrammar: XGrammar, vocabulary: Vocabulary): Promise<GrammarCompiler> {
  const { bytes, ends, stopTokens } = vocabulary;
  const each = Array.from(ends, (end, token) => bytes.subarray(token === 0 ? 0 : ends[token - 1], end));
  secondBytes = new SecondBytes(each);
  // Whatever has no bytes never comes.
  const tokens = each.map((own) => (isInNoText(own) ? '' : byteLevel(own)));
  const info = await xgrammar.TokenizerInfo.createTokenizerInfo(tokens, 'byte_level', false, tokens.length, [
    ...stopTokens,
  ]);
  return xgrammar.GrammarCompiler.createGrammarCompiler(info, false);
}

/** Every byte as the character that byte-level vocabularies write for it, so that any vocabulary can be told so. */
const BYTE_CHARACTERS = ((): readonly string[] => {
  const isShown = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isShown(byte) ? byte : 256 + others++));
})();

function byteLevel(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += BYTE_CHARACTERS[byte];
  return text;
}

async function compiledFor(
  xgrammar: XGrammar,
  { key, grammar }: Pick<Extract<Command, { kind: 'compile' }>, 'key' | 'grammar'>,
): Promise<Compiled> {
  if (!compiler) throw new Error('there is no vocabulary');
  const known = compiled.get(key) ?? { grammar: await compileGrammar(xgrammar, compiler, grammar), users: 0 };
  compiled.delete(key);
  compiled.set(key, known);
  for (const [other, { grammar: old, users }] of compiled) {
    if (compiled.size <= MOST_KEPT) break;
    if (users > 0 || other === key) continue;
    compiled.delete(other);
    old.dispose();
  }
  return known;
}

/** What is wrong with the text, if anything. */
async function take(
  xgrammar: XGrammar,
  { matcher: number, open: opening, tokens }: Step,
): Promise<string | undefined> {
  if (opening) {
    close(number);
    const own = await compiledFor(xgrammar, opening);
    own.users++;
    const matcher = await xgrammar.GrammarMatcher.createGrammarMatcher(own.grammar);
    open.set(number, { matcher, compiled: own, words: new Int32Array(opening.mask) });
  }
  const one = open.get(number);
  if (!one) throw new Error('nobody has opened this text');
  for (const token of tokens) {
    if (!one.matcher.acceptToken(token)) return `token ${token} may not come here`;
  }
  if (one.matcher.isTerminated()) return 'the text has ended';
  const mask = (await one.matcher.getNextTokenBitmask()).subarray(0, one.words.length);
  const goOn = secondBytes.after(tokens.at(-1) ?? -1);
  goOn?.forEach((word, at) => {
    mask[at] = (mask[at] ?? 0) & word;
  });
  one.words.set(mask);
  return mask.some((word) => word !== 0) ? undefined : 'no token of the vocabulary may come next';
}

function close(matcher: number): void {
  const one = open.get(matcher);
  if (!one) return;
  open.delete(matcher);
  one.compiled.users--;
  one.matcher.dispose();
}

let queue = Promise.resolve();
parentPort?.on('message', (message: Numbered) => {
  queue = queue.then(async () => {
    const said = await answer(message);
    parentPort?.postMessage(said);
  });
});
