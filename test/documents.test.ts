// README.md says what the program is: options that exist, and every architecture that it runs.

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { COMMANDS } from '../src/cli/options/tables/commands.js';
import { ARCHITECTURES } from '../src/models/registry.js';

const [README, ARCHITECTURE] = ['README.md', 'ARCHITECTURE.md'].map((name) =>
  readFileSync(new URL(`../${name}`, import.meta.url), 'utf8'),
) as [string, string];
/** Options of every command, of set-up, and of a benchmark that README.md shows. */
const OTHERS = ['help', 'cuda', 'isa'];

it('names no option that there is not', () => {
  const known = new Set([
    ...Object.values(COMMANDS).flatMap(({ options }) => Object.keys(options)),
    ...OTHERS,
  ]);
  const named = [...(README + ARCHITECTURE).matchAll(/(?<![\w-])--([a-z][\w-]*)/g)].map(
    ([, name = '']) => name,
  );
  expect(named.length).toBeGreaterThan(50);
  expect(named.filter((name) => !known.has(name.replaceAll('-', '_')))).toEqual([]);
});

it('names functions where they are', () => {
  const named = [...ARCHITECTURE.matchAll(/`([^`\n]+)`\s+of\s+`([\w/.-]+\.\w+)`/g)];
  expect(named.length).toBeGreaterThan(10);
  const absent = named.filter(([, written = '', file = '']) => {
    const source = readFileSync(new URL(`../${file}`, import.meta.url), 'utf8');
    // A method as its class has it, parameters as far as they are written, and an operation by its name.
    const start = /'.*'/.exec(written)?.[0] ?? written.replace(/^\w+\.|\)$/g, '');
    const isThere = /^\w+$/.test(start)
      ? new RegExp(`^(?! *import).*\\b${start}\\(`, 'm').test(source)
      : undefined;
    return !(isThere ?? source.includes(start));
  });
  expect(absent.map(([text]) => text)).toEqual([]);
});

it('names every model_type that is read, and no other', () => {
  const table = README.slice(README.indexOf('| architecture |')).split('\n\n')[0] ?? '';
  const rows = table.split('\n').slice(2);
  const named = rows.flatMap((row) =>
    [...(row.split('|')[2] ?? '').matchAll(/`([^`]+)`/g)].map(([, name]) => name),
  );
  expect(named.toSorted()).toEqual(ARCHITECTURES.flatMap(({ modelTypes }) => modelTypes).toSorted());
});
