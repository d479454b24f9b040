// Which weights made some results: the same after they were copied, moved or touched, others however little differs.

import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readFileSync, renameSync, statSync, symlinkSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Checkpoint, openCheckpoint } from '../../src/checkpoint/checkpoint.js';
import {
  compareWeights,
  recordWeights,
  weightsFromJson,
  weightsToJson,
} from '../../src/cli/results/weight-record.js';
import { modelFolder } from '../helpers/fixtures.js';
import { keepingTime, overwrite } from '../helpers/overwrite.js';
import { tempFolder } from '../helpers/temp-folder.js';

const NAME = 'bloom';
const FILE = 'model.safetensors';
/** No model is small then. */
const LARGE = { wholeBytes: 0 };

function copyOfModel(): string {
  const folder = join(tempFolder(), 'model');
  cpSync(modelFolder(NAME), folder, { recursive: true });
  return folder;
}

/** What a run would find that goes on with the results of one before `change`, which may return another folder. */
async function differenceAfter(
  folder: string,
  change: (path: string, checkpoint: Checkpoint) => string | undefined,
  options?: { readonly wholeBytes: number; readonly sha256?: readonly string[] },
) {
  const before = await openCheckpoint(folder);
  const kept: unknown = JSON.parse(JSON.stringify(weightsToJson(await recordWeights(before, options))));
  const elsewhere = change(join(folder, FILE), before) ?? folder;
  const { files, ...after } = await openCheckpoint(elsewhere);
  const now = await recordWeights({ files, ...after }, options && LARGE);
  const doubts: string[] = [];
  const then = weightsFromJson(kept) ?? [];
  expect(then).toHaveLength(1);
  const onDoubt = (sentence: string) => doubts.push(sentence);
  return { difference: await compareWeights(then, now, files, { onDoubt }), doubts };
}

/** Where nothing is sampled: between the pieces of the largest tensor. */
function hiddenPlace({ tensors }: Checkpoint): number {
  const [largest] = [...tensors.values()].sort((a, b) => b.sizeBytes - a.sizeBytes);
  if (!largest) throw new Error('no tensors');
  return largest.fileOffset + Math.floor(largest.sizeBytes / 4);
}

const flip = (path: string, offset: number) =>
  overwrite(path, offset, Buffer.from([(readFileSync(path)[offset] ?? 0) ^ 1]));

describe.each([
  ['small', undefined],
  ['large', LARGE],
])('of %s models', (_, options) => {
  it('are the same where nobody touched them, and where the folder was moved', async () => {
    const folder = copyOfModel();
    expect(await differenceAfter(folder, () => undefined, options)).toEqual({
      difference: undefined,
      doubts: [],
    });
    const move = () => {
      renameSync(folder, `${folder}-moved`);
      return `${folder}-moved`;
    };
    expect(await differenceAfter(folder, move, options)).toEqual({ difference: undefined, doubts: [] });
  });

  it('are the same in a copy that kept its time', async () => {
    const folder = copyOfModel();
    const copy = () => {
      cpSync(folder, `${folder}-copy`, { recursive: true });
      const path = join(`${folder}-copy`, FILE);
      keepingTimeOf(join(folder, FILE), path);
      return `${folder}-copy`;
    };
    const { difference, doubts } = await differenceAfter(folder, copy, options);
    expect(difference).toBeUndefined();
    expect(doubts.join()).toMatch(
      options ? /was copied or renamed since .* samples of its content agree/ : /^$/,
    );
  });

  it('are others where one tensor is another, at the same size and time', async () => {
    const tune = (path: string, { tensors }: Checkpoint) => {
      const [tensor] = [...tensors.values()].filter(({ sizeBytes }) => sizeBytes < 4096);
      if (!tensor) throw new Error('no small tensor');
      keepingTime(path, () => flip(path, tensor.fileOffset));
      return undefined;
    };
    const { difference } = await differenceAfter(copyOfModel(), tune, options);
    expect(difference).toMatch(/model\.safetensors has other content$/);
  });

  it('are others where a file of them is missing, longer, or has other tensors', async () => {
    const grow = (path: string) => {
      overwrite(path, statSync(path).size, Buffer.from([0]));
      return undefined;
    };
    // A file with a byte too many may be refused before; then nobody goes on either.
    const grown = await differenceAfter(copyOfModel(), grow, options).catch((error: unknown) => ({
      difference: String(error),
    }));
    expect(grown.difference).toBeDefined();
    const other = () => modelFolder('shakespeare-bloom');
    const { difference } = await differenceAfter(copyOfModel(), other, options);
    expect(difference).toMatch(/bloom.model\.safetensors has other content$/);
  });
});

it('of small models are compared to the last byte, also when touched', async () => {
  const touch = (path: string) => void utimesSync(path, 1, 1);
  expect(
    (await differenceAfter(copyOfModel(), (path) => touch(path) as undefined)).difference,
  ).toBeUndefined();
  const edit = (path: string, checkpoint: Checkpoint) => {
    keepingTime(path, () => flip(path, hiddenPlace(checkpoint)));
    return undefined;
  };
  expect((await differenceAfter(copyOfModel(), edit)).difference).toMatch(/has other content/);
});

it('of large models that were touched are not taken on trust, until their time is given back', async () => {
  const folder = copyOfModel();
  const path = join(folder, FILE);
  const touch = () => void utimesSync(path, 1e9, 1e9) as undefined;
  const { difference } = await differenceAfter(folder, touch, LARGE);
  const [, time] =
    /is not certain \(if it is the same, give it its time again: touch -m -d (@\S+)\)$/.exec(
      difference ?? '',
    ) ?? [];
  expect(time).toMatch(/^@\d+\.\d{9}$/);
});

it('of large models are compared to the last byte where copying has hashed them', async () => {
  const folder = copyOfModel();
  const content = readFileSync(join(folder, FILE));
  const options = { ...LARGE, sha256: [createHash('sha256').update(content).digest('hex')] };
  const touch = (path: string) => void utimesSync(path, 1, 1) as undefined;
  expect(await differenceAfter(folder, touch, options)).toEqual({ difference: undefined, doubts: [] });
  const edit = (path: string, checkpoint: Checkpoint) => {
    keepingTime(path, () => flip(path, hiddenPlace(checkpoint)));
    return undefined;
  };
  expect((await differenceAfter(folder, edit, options)).difference).toMatch(/has other content/);
});

describe('of files from the hub', () => {
  /** As its cache has them: a link to a file that is named by its content. */
  function cacheOf(): { folder: string; blob: string } {
    const root = tempFolder();
    const [folder, blobs] = [join(root, 'snapshots', 'commit'), join(root, 'blobs')];
    cpSync(modelFolder(NAME), folder, { recursive: true });
    mkdirSync(blobs);
    const content = readFileSync(join(folder, FILE));
    const blob = join(blobs, createHash('sha256').update(content).digest('hex'));
    renameSync(join(folder, FILE), blob);
    symlinkSync(blob, join(folder, FILE));
    return { folder, blob };
  }

  it('are known by their names, wherever the cache is', async () => {
    const other = cacheOf().folder;
    expect(await differenceAfter(cacheOf().folder, () => other, LARGE)).toEqual({
      difference: undefined,
      doubts: [],
    });
  });

  it('are hashed when they were touched, and are others when they were written to', async () => {
    const { folder, blob } = cacheOf();
    const touch = () => void utimesSync(blob, 1, 1) as undefined;
    expect((await differenceAfter(folder, touch, LARGE)).difference).toBeUndefined();
    const edit = (_: string, checkpoint: Checkpoint) => {
      keepingTime(blob, () => flip(blob, hiddenPlace(checkpoint)));
      return undefined;
    };
    expect((await differenceAfter(folder, edit, LARGE)).difference).toMatch(/has other content/);
  });

  it('are those of a plain folder with the same content', async () => {
    const { folder } = cacheOf();
    expect((await differenceAfter(folder, copyOfModel, LARGE)).difference).toBeUndefined();
  });
});

function keepingTimeOf(original: string, copy: string): void {
  keepingTime(copy, () => undefined, statSync(original, { bigint: true }).mtimeNs);
}
