// The map of the sources: which files no README names, and which names in READMEs and comments lead nowhere.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

/** Folders of the project whose files may be named from its root. */
const ROOTS = ['src', 'offload', 'native', 'test', 'bench', 'configs'];
/** What is compiled, installed or written by a run: nothing of it is a source. */
const GENERATED = ['node_modules', 'build', 'building', 'node-api', 'out'];
const SOURCE = /\.(ts|mjs|cc|h|cu|cuh|c|py|sh)$/;
/** Files of others that have names like ours. */
const FOREIGN = ['napi.h', 'tensor.rs', 'cublasLt.h', 'nccl.h', 'pickletools.py'];
/** A folder with more files than this has more than one idea, and so a README of its own. */
export const FILES_WITHOUT_README = 5;

/** All of a folder's files, relative to `root`, but what is generated and what fixtures hold. */
export function filesBelow(root: string, folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (!entry.isDirectory()) return [path];
    return [...GENERATED, 'models'].includes(entry.name) && path !== 'src/models' && path !== 'test/models'
      ? []
      : filesBelow(root, path);
  });
}

function escaped(text: string): string {
  return text.replace(/[.+?^${}()|[\]\\]/g, '\\$&');
}

/** Whether `path` is what `name` says; `*` stands for any part of a file's name. */
function named(name: string, path: string): boolean {
  return new RegExp(`^${escaped(name).replaceAll('*', '[^/]*')}$`).test(path);
}

/** A pattern that any file of a folder fits says nothing of its one idea. */
function tooWide(name: string): boolean {
  const last = name.split('/').at(-1) as string;
  return last.includes('*') && !/[a-z]{2}/.test(last.replace(/\.[a-z.*]+$/, ''));
}

function codeSpans(text: string): string[] {
  return [...text.matchAll(/`([^`\n]+)`/g)].map((match) => match[1] as string);
}

/** What the tables of a README name, as paths from the project's root. */
function rowsOf(root: string, readme: string): string[] {
  const folder = dirname(readme);
  const rows = readFileSync(join(root, readme), 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('|'));
  return rows
    .flatMap(codeSpans)
    .filter((name) => !tooWide(name))
    .map((name) => normalize(join(folder, name)));
}

function nearestReadme(readmes: readonly string[], path: string): string | undefined {
  for (let folder = dirname(path); folder !== '.'; folder = dirname(folder)) {
    const readme = `${folder}/README.md`;
    if (readmes.includes(readme)) return readme;
  }
  return undefined;
}

/** One sentence for each file or folder of `folders` that is on no map, saying which row to add where. */
export function offTheMap(root: string, folders: readonly string[]): string[] {
  const files = folders.flatMap((folder) => filesBelow(root, folder));
  const readmes = files.filter((path) => path.endsWith('/README.md'));
  const rows = new Map(readmes.map((readme) => [readme, rowsOf(root, readme)]));
  const sources = files.filter((path) => SOURCE.test(path) && !path.endsWith('.test.ts'));
  const missing = (path: string, suffix: string): string[] => {
    const readme = nearestReadme(readmes, suffix === '/' ? `${dirname(path)}/x` : path);
    if (readme === undefined) return [`${path}${suffix} is on no map: no folder above it has a README.md`];
    if (rows.get(readme)?.some((row) => named(row, path + suffix))) return [];
    const name = path.slice(dirname(readme).length + 1) + suffix;
    return [`${path}${suffix} is on no map: add a row to ${readme}: | \`${name}\` | its one idea |`];
  };
  const crowded = [...new Set(sources.map((path) => dirname(path)))].filter(
    (folder) =>
      !readmes.includes(`${folder}/README.md`) &&
      sources.filter((path) => dirname(path) === folder).length > FILES_WITHOUT_README,
  );
  return [
    ...crowded.map((folder) => `${folder}/ has more than ${FILES_WITHOUT_README} files and no README.md`),
    ...sources.flatMap((path) => missing(path, '')),
    ...readmes
      .map(dirname)
      .filter((folder) => !folders.includes(folder))
      .flatMap((folder) => missing(folder, '/')),
  ];
}

/** Names of things that the reader puts in: `NAME.ts`, `out/FILE`, `<id>`, `$HOME`. */
function placeholder(name: string): boolean {
  return /[<>$…={}~]|^[-@]|:\/\//.test(name) || name.split(/[/.]/).some((part) => /^[A-Z]{2,}$/.test(part));
}

/** Where a word in a document of `folder` may lead; nowhere if it is no name of a file of the project. */
function candidates(root: string, folder: string, word: string): string[] {
  const name = word.replace(/[,;:]$/, '').replace(/^dist\/(.*)\.js$/, '$1.ts');
  const parts = name.split('/');
  const [first = ''] = parts;
  if (/^[A-Z]+\.md$/.test(name)) return [name, join(folder, name)];
  if (placeholder(name) || FOREIGN.includes(name) || parts.some((part) => GENERATED.includes(part)))
    return [];
  if (parts.length > 1 && ROOTS.includes(first)) return [name, join(folder, name)];
  const beside = parts.length > 1 && first !== '' && existsSync(join(root, folder, first));
  return beside || (SOURCE.test(name) && !/^\*?\.\w+$/.test(name)) ? [join(folder, name)] : [];
}

function leadsSomewhere(root: string, path: string): boolean {
  if (!path.includes('*')) return existsSync(join(root, path)) || existsSync(join(root, `${path}.ts`));
  const folder = dirname(path);
  return (
    existsSync(join(root, folder)) && filesBelow(root, folder).some((file) => named(normalize(path), file))
  );
}

/** One sentence for each file that `document` names, in backticks or in a command, and that is not there. */
export function namesOfNothing(root: string, document: string): string[] {
  const text = readFileSync(join(root, document), 'utf8');
  const commands = [...text.matchAll(/^```[^\n]*\n([\s\S]*?)^```/gm)].map((match) => match[1] as string);
  const spans = codeSpans(text.replace(/^```[^\n]*\n[\s\S]*?^```/gm, ''));
  const words = [...commands, ...spans].flatMap((span) => span.split(/[\s"'()]+/));
  return [...new Set(words)].flatMap((word) => {
    const places = candidates(root, dirname(document), word);
    if (places.length === 0 || places.some((path) => leadsSomewhere(root, path))) return [];
    return [`${document} names \`${word}\`, and there is no ${places.join(' nor ')}`];
  });
}

const COMMENT = /\/\*[\s\S]*?\*\/|(?:^|\s)\/\/[^\n]*/g;
const FILE_NAME = /(?<![\w./*-])([\w./-]+\.(?:ts|mjs|cc|h|cu|py|sh))\b/g;

/** One sentence for each file that a comment of `folders` names by its name or the end of its path, and that is not there. */
export function commentsOfNothing(root: string, folders: readonly string[]): string[] {
  const files = folders.flatMap((folder) => filesBelow(root, folder));
  const isThere = (name: string) => files.some((path) => path === name || path.endsWith(`/${name}`));
  return files
    .filter((path) => SOURCE.test(path) && !path.endsWith('.py') && !path.endsWith('.sh'))
    .flatMap((path) => {
      const comments = readFileSync(join(root, path), 'utf8').match(COMMENT) ?? [];
      const names = comments.flatMap((comment) =>
        [...comment.matchAll(FILE_NAME)].map(([, name = '']) => name),
      );
      return [...new Set(names)]
        .filter(
          (name) =>
            !placeholder(name) && !FOREIGN.includes(name) && !isThere(name.replace(/^(\.\.?\/)+/, '')),
        )
        .map((name) => `${path}: a comment names ${name}, and there is no such file`);
    });
}
