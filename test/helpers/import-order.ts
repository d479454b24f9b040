// The order of folders that a README's table states, and the circles that imports make.

/** A source, and what it imports of other sources, all from the project's root. */
export type Imports = ReadonlyMap<string, readonly string[]>;

/** `src/README.md`'s first column: what each row names, from the folder. */
function rowsOf(readme: string): string[][] {
  return readme
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .map((line) => [...(line.split('|')[1] ?? '').matchAll(/`([^`]+)`/g)].map((match) => match[1] as string));
}

/** What lies directly in `folder` on the way to `path`: a folder's name with a slash, or a file's. */
function entryOf(folder: string, path: string): string {
  const [first = '', ...rest] = path.slice(folder.length + 1).split('/');
  return rest.length > 0 ? `${first}/` : first;
}

/** Sentences for imports within `folder` of what stands below, and for what no row names. Files of a row may import each other. */
export function againstOrder(folder: string, readme: string, imports: Imports): string[] {
  const ranks = new Map<string, number>();
  for (const [rank, names] of rowsOf(readme).entries()) {
    for (const name of names) {
      const entry = entryOf(folder, `${folder}/${name}`);
      if (!ranks.has(entry)) ranks.set(entry, rank);
    }
  }
  return [...imports].flatMap(([path, targets]) => {
    if (!path.startsWith(`${folder}/`)) return [];
    const own = ranks.get(entryOf(folder, path));
    if (own === undefined) return [`${path} is in no row of ${folder}/README.md`];
    return targets
      .filter((target) => target.startsWith(`${folder}/`))
      .filter((target) => (ranks.get(entryOf(folder, target)) ?? 0) > own)
      .map((target) => `${path} imports ${target}, which stands below it`);
  });
}

/** Groups of sources that all lead to each other, each in alphabetical order. */
export function circles(imports: Imports): string[][] {
  // Tarjan 1972: a group is what lies on the path from its first-found member when all of that one's imports are done.
  const found = new Map<string, number>();
  const lowest = new Map<string, number>();
  const path: string[] = [];
  const groups: string[][] = [];
  const visit = (source: string): number => {
    const own = found.size;
    found.set(source, own);
    path.push(source);
    let low = own;
    for (const next of imports.get(source) ?? []) {
      if (!imports.has(next)) continue;
      if (!found.has(next)) low = Math.min(low, visit(next));
      else if (path.includes(next)) low = Math.min(low, lowest.get(next) ?? found.get(next) ?? low);
    }
    lowest.set(source, low);
    if (low !== own) return low;
    const group = path.splice(path.indexOf(source)).sort();
    if (group.length > 1 || imports.get(source)?.includes(source)) groups.push(group);
    return low;
  };
  for (const source of imports.keys()) if (!found.has(source)) visit(source);
  return groups;
}
