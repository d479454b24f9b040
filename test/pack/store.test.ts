// What a store holds: every matrix of every block with little lost, all else byte by byte, each tensor where direct reads
// want it.

import { cpSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { plannedPacked } from '../../src/cli/packed-model.js';
import { openModel } from '../../src/engine/open-model.js';
import { relativeLoss } from '../../src/pack/record.js';
import type { PackSettings } from '../../src/pack/scheme.js';
import { matricesOf, valuesOf } from '../formats/matrix-values.js';
import { ALL_DRAM, readGolden, scoreFolder } from '../golden/run-model.js';
import { changedCheckpoint } from '../helpers/changed-checkpoint.js';
import { modelFolder } from '../helpers/fixtures.js';
import { fusedMixtral } from '../helpers/fused-experts.js';
import { packFolder } from '../helpers/pack-fixture.js';
import { decodeModule, type ReadStore, readFloat, readStore, writeDecoded } from '../helpers/packed-store.js';
import { failureOf } from '../helpers/staging.js';
import { tempFolder } from '../helpers/temp-folder.js';

const newFolder = () => join(tempFolder(), 'store');

async function packed(source: string, settings: Partial<PackSettings>) {
  const folder = newFolder();
  const layers = await packFolder(source, folder, settings);
  return { folder, layers, store: readStore(folder), before: readStore(source) };
}

function packedModules({ tensors }: ReadStore): string[] {
  return [...tensors.keys()].flatMap((name) => /^(.*)\.weight_scale$/.exec(name)?.[1] ?? []);
}

/** What was lost of all packed matrices together, relative to them. */
function lossOf(store: ReadStore, before: ReadStore): number {
  let [squares, lost] = [0, 0];
  for (const module of packedModules(store)) {
    const source = before.tensors.get(`${module}.weight`);
    if (!source) throw new Error(`${module} is not of the source`);
    const { values } = decodeModule(store, module, source.dtype);
    values.forEach((value, index) => {
      const original = readFloat(source.dtype, source.bytes, index);
      squares += original ** 2;
      lost += (original - value) ** 2;
    });
  }
  return Math.sqrt(lost / squares);
}

const FIXTURES = [
  'bloom',
  'llama',
  'mixtral',
  'qwen3_moe',
  'phi3',
  'opt',
  'falcon-7b-style',
  'gpt_neo',
  'gemma2',
];
const SETTINGS: readonly (readonly [string, Partial<PackSettings>, most: number])[] = [
  ['int4', { weights: 'int4' }, 0.12],
  ['int8', { weights: 'int8' }, 0.008],
  ['int8 by rows', { weights: 'int8', groupSize: 'channel' }, 0.012],
  ['fp8', { weights: 'fp8' }, 0.03],
  ['int4 over files', { weights: 'int4', gpus: 3 }, 0.12],
];

/** Every fixture in one way, and one fixture in all. */
const CASES = FIXTURES.flatMap((fixture, place) =>
  SETTINGS.filter((_, way) => fixture === 'mixtral' || way === place % SETTINGS.length).map(
    (way) => [fixture, ...way] as const,
  ),
);

describe('a store', () => {
  it.each(CASES)('of %s as %s', async (fixture, _name, settings, most) => {
    const { folder, layers, store, before } = await packed(modelFolder(fixture), settings);
    const modules = packedModules(store);
    const { model } = await openModel(modelFolder(fixture));
    expect(modules.length).toBeGreaterThanOrEqual(4 * model.blocks.length);
    // What is no packed matrix is there as it was.
    for (const [name, { dtype, shape, bytes }] of before.tensors) {
      const module = name.replace(/\.weight$/, '');
      if (modules.includes(module)) continue;
      expect(/proj|dense|fc|query|experts/.test(name) && shape.length > 1 && !/embed/.test(name)).toBe(false);
      const kept = store.tensors.get(name);
      expect([name, kept?.dtype, kept?.shape, kept?.bytes.equals(bytes)]).toEqual([name, dtype, shape, true]);
    }
    const lost = lossOf(store, before);
    expect(lost).toBeLessThan(most);
    const all =
      layers.reduce((sum, one) => sum + one.lostSquares, 0) /
      layers.reduce((sum, one) => sum + one.squares, 0);
    expect(Math.sqrt(all) / lost).toBeCloseTo(1, 3);
    expect(layers.every((layer) => relativeLoss(layer) <= 1.5 * most)).toBe(true);
    for (const [name, { bytes, fileOffset }] of store.tensors) {
      if (bytes.length >= 4096) expect([name, fileOffset % 4096]).toEqual([name, 0]);
    }
    const index = JSON.parse(readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8'));
    const real = [...store.tensors].filter(([name]) => !name.startsWith('zero_inference.'));
    expect(index.weight_map).toEqual(Object.fromEntries(real.map(([name, { file }]) => [name, file])));
    expect(new Set([...store.metadata.values()].map((data) => data['zero_inference.pack'])).size).toBe(1);
  });
});

describe('routers', () => {
  it.each(['mixtral', 'qwen3_moe'])('of %s stay, and are named', async (fixture) => {
    const { folder, store } = await packed(modelFolder(fixture), { weights: 'int8' });
    const { quantization_config: config } = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
    const routers = [...store.tensors.keys()].filter((name) =>
      /(mlp|block_sparse_moe)\.gate\.weight$/.test(name),
    );
    expect(routers.length).toBeGreaterThan(0);
    expect(config.ignore).toEqual(
      expect.arrayContaining([...routers.map((name) => name.replace(/\.weight$/, '')), 'lm_head']),
    );
    expect(config.quant_method).toBe('compressed-tensors');
  });
});

describe('matrices that are stored [inputs, outputs]', () => {
  it.each([
    ['gpt2', { weights: 'int8' }, 0.01],
    ['gpt_oss', { weights: 'int4', gpus: 2 }, 0.14],
    ['gpt2', { weights: 'fp8' }, 0.035],
  ] as const)('of %s are packed by rows as others are (%o)', async (fixture, settings, most) => {
    const { folder, store } = await packed(modelFolder(fixture), settings);
    const [plain, stored] = [await openModel(modelFolder(fixture)), await openModel(folder)];
    const before = matricesOf(plain);
    let count = 0;
    for (const [name, matrix] of matricesOf(stored)) {
      const source = before.get(name);
      if (!source || matrix.format.name.startsWith('dense')) continue;
      count++;
      const [values, wanted] = [
        valuesOf(matrix, stored.checkpoint.files),
        valuesOf(source, plain.checkpoint.files),
      ];
      const squares = wanted.reduce((sum, value) => sum + value ** 2, 0);
      const lost = wanted.reduce((sum, value, i) => sum + (value - (values[i] ?? Number.NaN)) ** 2, 0);
      expect(Math.sqrt(lost / squares), name).toBeLessThan(most);
    }
    expect(count).toBe(packedModules(store).length);
    expect(count).toBeGreaterThanOrEqual(4 * plain.model.blocks.length);
  });
});

describe('experts in one tensor', () => {
  it('are packed one by one, as those that lie apart', async () => {
    const { store } = await packed(await fusedMixtral(4), { weights: 'int4' });
    const { store: apart } = await packed(modelFolder('mixtral'), { weights: 'int4' });
    const names = packedModules(apart);
    expect(packedModules(store).sort()).toEqual([...names].sort());
    for (const name of names)
      for (const part of ['weight_packed', 'weight_scale']) {
        const [one, other] = [store, apart].map(({ tensors }) => tensors.get(`${name}.${part}`)?.bytes);
        expect([name, part, one?.equals(other ?? Buffer.alloc(0))]).toEqual([name, part, true]);
      }
  });
});

describe('a plan', () => {
  it('is made with what would be written', async () => {
    const source = await openModel(modelFolder('mixtral'));
    const { folder } = await packed(modelFolder('mixtral'), { weights: 'int8' });
    const [planned, written] = [await plannedPacked(source, 'int8'), await openModel(folder)];
    const layersOf = ({ model }: typeof written) => model.blocks.map(({ tensors }) => tensors);
    expect(layersOf(planned)).toEqual(layersOf(written));
    expect(planned.checkpoint.totalBytes).toBe(written.checkpoint.totalBytes);
  });
});

describe('the configuration', () => {
  it('is the source’s, letter by letter, with one entry more', async () => {
    const { folder } = await packed(modelFolder('shakespeare-bloom'), { weights: 'int4' });
    const [text, before] = [folder, modelFolder('shakespeare-bloom')].map((at) =>
      readFileSync(join(at, 'config.json'), 'utf8'),
    ) as [string, string];
    expect(text.startsWith(before.trimEnd().slice(0, -1).trimEnd())).toBe(true);
    expect(text).toContain('"attention_dropout": 0.0');
    const { quantization_config: config } = JSON.parse(text);
    expect(config.format).toBe('pack-quantized');
    expect(config.config_groups.group_0.weights).toMatchObject({
      num_bits: 4,
      type: 'int',
      symmetric: true,
      strategy: 'group',
      group_size: 64,
    });
  });
});

describe('companions', () => {
  it('come along, weights of other kinds and hidden files do not', async () => {
    const source = await changedCheckpoint('bloom', {
      json: { 'generation_config.json': { eos_token_id: 2 }, 'tokenizer_config.json': { a: 1 } },
    });
    mkdirSync(join(source, 'additional_chat_templates'));
    mkdirSync(join(source, 'original'));
    for (const name of [
      'chat_template.jinja',
      'LICENSE',
      '.gitattributes',
      'tf_model.h5',
      'additional_chat_templates/x.jinja',
      'original/params.json',
    ])
      cpSync(join(source, 'tokenizer_config.json'), join(source, name));
    const { folder } = await packed(source, {});
    const has = (name: string) => {
      try {
        return readFileSync(join(folder, name), 'utf8') !== '';
      } catch {
        return false;
      }
    };
    for (const name of [
      'chat_template.jinja',
      'LICENSE',
      'generation_config.json',
      'additional_chat_templates/x.jinja',
    ])
      expect([name, has(name)]).toEqual([name, true]);
    for (const name of ['.gitattributes', 'tf_model.h5', 'original/params.json'])
      expect([name, has(name)]).toEqual([name, false]);
  });
});

describe('the likelihood of a text', () => {
  const SOURCE = modelFolder('shakespeare-bloom');
  const { nll_ids: ids } = readGolden('shakespeare-bloom');

  /** As the engine reads the store, and from weights that were decoded beforehand. */
  async function nllsOf(settings: Partial<PackSettings>): Promise<readonly [number, number]> {
    const { folder, store } = await packed(SOURCE, settings);
    const dense = tempFolder();
    cpSync(SOURCE, dense, { recursive: true });
    rmSync(join(dense, 'model.safetensors'));
    writeDecoded(store, dense, 'F16');
    const nllOf = async (from: string) => (await scoreFolder(from, ids, 256, ALL_DRAM)).nll;
    return [await nllOf(folder), await nllOf(dense)];
  }

  it.each([
    ['int8', { weights: 'int8' }, 1.001],
    ['int8 by rows', { weights: 'int8', groupSize: 'channel' }, 1.001],
    ['fp8', { weights: 'fp8' }, 1.003],
    ['int4', { weights: 'int4' }, 1.02],
  ] as const)('hardly changes with %s', async (_name, settings, most) => {
    const before = (await scoreFolder(SOURCE, ids, 256, ALL_DRAM)).nll;
    const [after, decoded] = await nllsOf(settings);
    expect(after / before).toBeLessThan(most);
    expect(Math.abs(after - decoded)).toBeLessThan(1e-4);
  });
});

describe('what cannot be packed', () => {
  it('is refused by name', async () => {
    const quantised = await changedCheckpoint('llama', {
      config: { quantization_config: { quant_method: 'fp8' } },
    });
    const cases = [
      [quantised, {}, 'UNSUPPORTED', /quantised/],
      [modelFolder('llama'), { groupSize: 40 }, 'BAD_OPTION', /--group_size is 40, but .* inputs/],
    ] as const;
    for (const [source, settings, code, message] of cases) {
      const error = await failureOf(packFolder(source, newFolder(), settings));
      expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
    }
  });
});
