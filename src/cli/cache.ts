// `cache`: lists what this program keeps on drives, and removes what is named.

import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { formatBytes, OperatingError, renameKeys, toSnake } from '../../offload/index.js';
import { ifThere } from '../files/if-there.js';
import { readHubEnvironment } from '../hub/environment.js';
import { textTable } from '../report/text-table.js';
import { copiesIn, copyRemoval, dummiesIn, packedIn } from '../stored/copies.js';
import { downloadRemoval, downloadsIn } from '../stored/downloads.js';
import { inUse } from '../stored/in-use.js';
import { dummyFolder, notedPlaces, packedFolder } from '../stored/places.js';
import { bytesOf, carryOut, type Removal, type Stored, type StoredKind } from '../stored/stored.js';
import { suggest } from '../text/suggest.js';
import type { CommandContext } from './context.js';
import type { CacheOptions } from './options/cache-options.js';
import { badOption } from './options/option-reader.js';

export async function runCache(options: CacheOptions, context: CommandContext): Promise<void> {
  const entries = await findStored(options);
  if (options.remove === undefined) context.write(options.json ? listJson(entries) : listText(entries));
  else await remove(options.remove, entries, options, context);
}

async function findStored({ folders }: CacheOptions): Promise<Stored[]> {
  for (const folder of folders) {
    const found = await ifThere(folder, stat(folder));
    if (!found?.isDirectory())
      throw new OperatingError('NOT_FOUND', `--folder: there is no folder '${folder}'`);
  }
  const { cacheFolder } = await readHubEnvironment(process.env);
  const places = [
    ...new Set([...(await notedPlaces(process.env)), ...folders.map((folder) => resolve(folder))]),
  ];
  const found = await Promise.all([
    downloadsIn(cacheFolder),
    ...places.map(copiesIn),
    packedIn(packedFolder(process.env)),
    ...[...new Set([dummyFolder(process.env), ...places])].map(dummiesIn),
  ]);
  return found.flat();
}

const HEADINGS: Readonly<Record<StoredKind, string>> = {
  download: 'Models of the hub',
  copy: 'Copies of weights',
  packed: 'Packed weights',
  dummy: 'Random weights',
};

function listText(entries: readonly Stored[]): string {
  if (entries.length === 0)
    return 'nothing is kept: no model of the hub, no copy of weights, no packed and no random weights\n';
  const sections = (Object.keys(HEADINGS) as StoredKind[]).flatMap((kind) => {
    const ofKind = entries.filter((entry) => entry.kind === kind);
    if (ofKind.length === 0) return [];
    const rows = ofKind.map(({ name, sizeBytes, usedAt, about, incompleteBytes, path }) => [
      `  ${name}`,
      formatBytes(sizeBytes),
      `used ${usedAt?.toISOString().slice(0, 10) ?? 'never'}`,
      incompleteBytes > 0 ? `${about}; ${formatBytes(incompleteBytes)} half written` : about,
      path,
    ]);
    return [`${HEADINGS[kind]}\n${textTable(rows, ['left', 'right', 'left', 'left', 'left'])}`];
  });
  return `${sections.join('\n')}\n${formatBytes(totalBytes(entries))} together\n`;
}

function totalBytes(entries: readonly Stored[]): number {
  return entries.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

function listJson(entries: readonly Stored[]): string {
  const listed = entries.map(({ usedAt, ...entry }) => ({ ...entry, usedAt: usedAt?.toISOString() ?? null }));
  return json({ entries: listed, totalBytes: totalBytes(entries) });
}

function json(value: object): string {
  return `${JSON.stringify(renameKeys(value, toSnake), undefined, 2)}\n`;
}

interface Planned {
  readonly name: string;
  readonly entry: Stored;
  readonly removal: Removal;
}

async function remove(
  names: readonly string[],
  entries: readonly Stored[],
  options: CacheOptions,
  context: CommandContext,
): Promise<void> {
  const planned = await Promise.all([...new Set(names)].map((name) => plan(name, entries)));
  const freedBytes = bytesOf(
    new Map(planned.flatMap(({ removal }) => removal.files.map((file) => [file.path, file]))).values(),
  );
  if (!options.json) context.write(planned.map(describe).join(''));
  for (const one of planned) await refuseInUse(one);
  if (!options.dryRun) {
    if (!(await isWanted(freedBytes, options, context))) {
      context.write('nothing was removed\n');
      return;
    }
    for (const one of planned) await removeOne(one, context);
    if (!options.json) context.write(`removed: ${formatBytes(freedBytes)} are free again\n`);
  }
  if (!options.json) return;
  const removed = planned.map(({ name, entry, removal }) => ({
    name,
    path: entry.path,
    freedBytes: bytesOf(removal.files),
  }));
  context.write(json({ removed, freedBytes, dryRun: options.dryRun }));
}

async function removeOne(planned: Planned, { interrupt, log }: CommandContext): Promise<void> {
  // Somebody may have begun to use it while it was asked.
  await refuseInUse(planned);
  const kept = await carryOut(planned.removal, interrupt.signal);
  for (const folder of kept) log.warn(`${folder} stays, because something else is in it`);
}

/** @param name as it is listed, a path, or a model with `@` and what of it */
async function plan(name: string, entries: readonly Stored[]): Promise<Planned> {
  const [, model = '', what] = /^([^@]+)@(.+)$/.exec(name) ?? [];
  const entry = find(name, entries) ?? (what === undefined ? undefined : find(model, entries));
  if (!entry) {
    const meant = suggest(
      name,
      entries.map((one) => one.name),
    );
    const hint =
      meant === undefined
        ? 'cache lists what is there; --folder looks in another place'
        : `did you mean ${meant}?`;
    throw new OperatingError('NOT_FOUND', `nothing that is kept is called '${name}': ${hint}`);
  }
  const part = entry.name === name || entry.path === resolve(name) ? undefined : what;
  if (entry.kind !== 'download' && part !== undefined) {
    throw badOption(`'${name}': only models of the hub have revisions; leave out @${part}`);
  }
  const removal = entry.kind === 'download' ? await downloadRemoval(entry, part) : await copyRemoval(entry);
  return { name, entry, removal };
}

function find(name: string, entries: readonly Stored[]): Stored | undefined {
  const named = entries.filter((entry) => entry.name === name || entry.path === resolve(name));
  if (named.length <= 1) return named[0];
  throw badOption(`'${name}' is ${named.map(({ path }) => path).join(' and ')}: give its path`);
}

function describe({ name, entry, removal }: Planned): string {
  return `${name}: ${formatBytes(bytesOf(removal.files))} in ${removal.files.length} files of ${entry.path}\n`;
}

async function refuseInUse({ name, removal }: Planned): Promise<void> {
  const why = await inUse(removal);
  if (why !== undefined) {
    throw new OperatingError(
      'WRITE_FAILED',
      `${name} is in use and stays: ${why}; wait until that has ended`,
    );
  }
}

/** What was answered. Throws BAD_OPTION where nobody can be asked. */
async function isWanted(
  bytes: number,
  { yes, json: asJson }: CacheOptions,
  { writesToTerminal, interrupt }: CommandContext,
): Promise<boolean> {
  if (yes) return true;
  if (process.stdin.isTTY !== true || !writesToTerminal || asJson) {
    throw badOption('nothing is removed without --yes, because nobody can be asked: add it');
  }
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  const left = new AbortController();
  terminal.on('SIGINT', () => process.kill(process.pid, 'SIGINT'));
  for (const event of ['close', 'error']) terminal.on(event, () => left.abort());
  try {
    const signal = AbortSignal.any([interrupt.signal, left.signal]);
    const answer = await terminal.question(`Remove ${formatBytes(bytes)} for good? [y/N] `, { signal });
    return /^y(es)?$/i.test(answer.trim());
  } catch (error) {
    interrupt.signal.throwIfAborted();
    // Ctrl-D is no answer.
    if (left.signal.aborted) return false;
    throw error;
  } finally {
    terminal.close();
  }
}
