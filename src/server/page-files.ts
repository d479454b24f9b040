// The files of the page, by the paths that browsers ask for: read once, from where the package has them.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { LOOK } from '../drawing/look.js';

export interface PageFile {
  readonly type: string;
  readonly content: string;
}

const SCRIPT = 'text/javascript; charset=utf-8';
const STYLE = 'text/css; charset=utf-8';

/** Compiled modules, from `dist/src/`. */
const MODULES = [
  'drawing/numbers.js',
  'drawing/shapes.js',
  'server/page/chat.js',
  'server/page/completion.js',
  'server/page/dom.js',
  'server/page/engine-view.js',
  'server/page/main.js',
  'server/page/server-access.js',
  'server/page/settings.js',
  'server/page/turn.js',
] as const;

/** As they are, from `src/server/page/`. */
const PLAIN: readonly (readonly [string, string, string])[] = [
  ['/', 'page.html', 'text/html; charset=utf-8'],
  ['/assets/page.css', 'page.css', STYLE],
  ['/assets/icon.svg', 'icon.svg', 'image/svg+xml'],
];

/** The sources and dist/ lie at different depths. */
const ROOT = new URL(import.meta.url.endsWith('.ts') ? '../../' : '../../../', import.meta.url);

export const PAGE_PATHS: readonly string[] = [
  ...PLAIN.map(([path]) => path),
  '/assets/look.css',
  ...MODULES.map((name) => `/assets/${name}`),
];

const made = new Map<string, PageFile>();

/** @param path one of `PAGE_PATHS` */
export function pageFile(path: string): PageFile {
  const known = made.get(path) ?? read(path);
  made.set(path, known);
  return known;
}

function read(path: string): PageFile {
  if (path === '/assets/look.css') return { type: STYLE, content: LOOK };
  const plain = PLAIN.find(([asked]) => asked === path);
  if (plain) return { type: plain[2], content: textOf(`src/server/page/${plain[1]}`) };
  const module = MODULES.find((name) => `/assets/${name}` === path);
  if (module) return { type: SCRIPT, content: withoutMap(textOf(`dist/src/${module}`)) };
  throw new Error(`${path} is no file of the page`);
}

function textOf(name: string): string {
  return readFileSync(fileURLToPath(new URL(name, ROOT)), 'utf8');
}

/** Maps are for whoever has the sources. */
function withoutMap(code: string): string {
  return code.replace(/\n\/\/# sourceMappingURL=.*\n?$/, '\n');
}
