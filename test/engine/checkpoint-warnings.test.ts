// Checkpoints that are odd and run all the same, as transformers runs them: what is used, and what is said.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { pieceOffsets } from '../../src/checkpoint/stored-alike.js';
import { openModel } from '../../src/engine/open-model.js';
import { changedCheckpoint, copied, renamed } from '../helpers/changed-checkpoint.js';
import { modelFolder } from '../helpers/fixtures.js';
import type { TestTensor } from '../helpers/safetensors.js';

const INDEX = 'model.safetensors.index.json';
const ONE = 'model-00001-of-00002.safetensors';
const TWO = 'model-00002-of-00002.safetensors';

const zeros = (name: string, shape: readonly number[] = [2]): TestTensor => ({ name, dtype: 'F32', shape });
const flipLast = (bytes: Buffer) => {
  const changed = Buffer.from(bytes);
  changed[changed.length - 1] = (changed.at(-1) ?? 0) ^ 1;
  return changed;
};

test.each(['deepseek_v4', 'glm_moe_dsa'])(
  '%s: nothing is said of an index that no context asks for',
  async (fixture) => {
    expect((await openModel(modelFolder(fixture))).warnings).toEqual([]);
  },
);

test.each([
  ['deepseek_v4', 17],
  ['glm_moe_dsa', 8],
])('%s: where a context ends before its positions is said', async (fixture, most) => {
  const folder = await changedCheckpoint(fixture, { config: { index_topk: 8 } });
  expect((await openModel(folder)).warnings).toEqual([
    expect.stringMatching(`has 256 positions, but beyond ${most} an index .* contexts end at ${most} tokens`),
  ]);
});

describe('tied tables', () => {
  const TABLES = [
    ['stories260K', 'model.embed_tokens.weight'],
    ['gpt2', 'transformer.wte.weight'],
    ['opt', 'model.decoder.embed_tokens.weight'],
    ['bloom', 'transformer.word_embeddings.weight'],
  ] as const;

  test.each(TABLES)('%s with nothing but the head', async (fixture, table) => {
    const folder = await changedCheckpoint(fixture, {
      tensors: (all) => renamed(all, table, 'lm_head.weight'),
    });
    const { model, warnings } = await openModel(folder);
    expect(model.tables[0]?.extent).toEqual(model.head.projection.parts.codes?.extent);
    expect(warnings).toEqual([]);
  });

  test.each(TABLES)(
    '%s with both: quiet where they are equal, told where they differ',
    async (fixture, table) => {
      const equal = await changedCheckpoint(fixture, {
        tensors: (all) => [...all, copied(all, table, 'lm_head.weight')],
      });
      expect((await openModel(equal)).warnings).toEqual([]);
      const different = await changedCheckpoint(fixture, {
        tensors: (all) => [...all, copied(all, table, 'lm_head.weight', flipLast)],
      });
      const { model, warnings } = await openModel(different);
      expect(model.head.projection.parts.codes?.extent).not.toEqual(model.tables[0]?.extent);
      expect(warnings).toEqual([
        expect.stringMatching(/tie_word_embeddings is true, but .*and lm_head\.weight differ: each is used/),
      ]);
    },
  );

  test('of gigabytes, pieces from the first byte to the last are compared', () => {
    const sizeBytes = 3 * 2 ** 30 + 12;
    const offsets = pieceOffsets(sizeBytes);
    expect(offsets).toHaveLength(128);
    expect(offsets[0]).toBe(0);
    expect(offsets.at(-1)).toBe(sizeBytes - 2 ** 18);
    expect(pieceOffsets(2 ** 18 + 1)).toEqual([0, 2 ** 18]);
  });
});

describe('tensors that the configuration does not name', () => {
  test('layers beyond its number', async () => {
    const folder = await changedCheckpoint('llama', { config: { num_hidden_layers: 3 } });
    const { model, warnings } = await openModel(folder);
    expect(model.blocks).toHaveLength(3);
    expect(warnings).toEqual([
      expect.stringMatching(
        /holds tensors of 4 layers and config\.json says 3: the last 1 \(model\.layers\.3\.\S+, .*, …\) are not used/,
      ),
    ]);
  });

  test('others: biases, a head for other work, scales', async () => {
    const extra = ['model.layers.0.self_attn.q_proj.bias', 'score.weight'];
    const folder = await changedCheckpoint('llama', {
      tensors: (all) => [...all, ...extra.map((name) => zeros(name))],
    });
    const { warnings } = await openModel(folder);
    expect(warnings).toEqual([
      expect.stringMatching(
        /holds 2 tensors \(model\.layers\.0\.self_attn\.q_proj\.bias, score\.weight\) that config\.json does not name/,
      ),
    ]);
  });

  test('but for buffers of older versions and layers that predict further tokens', async () => {
    const buffers = {
      gpt2: ['h.0.attn.bias', 'transformer.h.0.attn.masked_bias'],
      gpt_neox: ['gpt_neox.layers.0.attention.bias', 'gpt_neox.layers.1.attention.rotary_emb.inv_freq'],
      gpt_neo: ['transformer.h.0.attn.attention.bias', 'transformer.h.1.attn.attention.masked_bias'],
      llama: [
        'model.layers.0.self_attn.rotary_emb.inv_freq',
        'mtp.fc.weight',
        'model.layers.4.eh_proj.weight',
      ],
    };
    for (const [fixture, names] of Object.entries(buffers)) {
      const folder = await changedCheckpoint(fixture, {
        config: { num_nextn_predict_layers: 1 },
        tensors: (all) => [...all, ...names.map((name) => zeros(name))],
      });
      expect((await openModel(folder)).warnings).toEqual([]);
    }
  });

  test('no fixture has any', async () => {
    for (const fixture of [
      'bloom-6-heads',
      'falcon-11b-style',
      'gemma2',
      'mixtral',
      'opt-350m-style',
      'phi3',
    ]) {
      expect((await openModel(modelFolder(fixture))).warnings).toEqual([]);
    }
  });

  test('an adapter beside a whole checkpoint', async () => {
    const folder = await changedCheckpoint('llama', {
      json: { 'adapter_config.json': { peft_type: 'LORA' } },
    });
    expect((await openModel(folder)).warnings).toEqual([
      expect.stringMatching(/has adapter_config\.json beside a whole checkpoint: the adapter is not applied/),
    ]);
  });
});

describe('an index that disagrees with its shards', () => {
  /** Half of the tensors in each shard, and an index made of what is where. */
  const sharded = (
    index: (where: Record<string, string>) => Record<string, string>,
    second: (all: TestTensor[]) => TestTensor[] = (all) => all,
    folder = '',
  ) => {
    const where: Record<string, string> = {};
    return changedCheckpoint('llama', {
      files: (all) => {
        const half = all.length >> 1;
        for (const [i, { name }] of all.entries()) where[name] = `${folder}${i < half ? ONE : TWO}`;
        return { [`${folder}${ONE}`]: all.slice(0, half), [`${folder}${TWO}`]: second(all.slice(half)) };
      },
    }).then((path) => {
      writeFileSync(join(path, INDEX), JSON.stringify({ metadata: {}, weight_map: index(where) }));
      return path;
    });
  };

  test('by a tensor that no shard has and the model does not need', async () => {
    const { warnings } = await openModel(await sharded((where) => ({ ...where, 'extra.fc.weight': ONE })));
    expect(warnings).toEqual([
      expect.stringMatching(
        /the index names a tensor that no shard holds \("extra\.fc\.weight" in .*ignored/,
      ),
    ]);
  });

  test('by one that the model needs', async () => {
    const folder = await sharded(
      (where) => where,
      (all) => all.filter(({ name }) => name !== 'model.norm.weight'),
    );
    await expect(openModel(folder)).rejects.toMatchObject({
      code: 'MISSING_TENSOR',
      message: expect.stringMatching(
        /no tensor model\.norm\.weight .* puts it into \S+, which does not hold it/,
      ),
    });
  });

  test('by leaving some out, by naming the wrong shard, and by a folder', async () => {
    const whole = await openModel(modelFolder('llama'));
    const leftOut = await sharded(({ 'model.norm.weight': _, ...rest }) => rest);
    const swapped = await sharded((where) => ({ ...where, 'model.norm.weight': ONE, 'lm_head.weight': TWO }));
    const below = await sharded((where) => where, undefined, 'weights/sub/');
    for (const folder of [leftOut, swapped, below]) {
      const { model, warnings, checkpoint } = await openModel(folder);
      expect(model.blocks).toHaveLength(whole.model.blocks.length);
      expect(checkpoint.tensors.size).toBe(whole.checkpoint.tensors.size);
      expect(warnings).toEqual([]);
    }
  });

  test('two shards that differ only in their folder are refused, since copies lie side by side', async () => {
    const folder = await sharded((where) => ({ ...where, 'model.norm.weight': `other/${ONE}` }));
    await expect(openModel(folder)).rejects.toThrow(/differ only in their folder/);
  });

  test('a tensor in two shards: the last one counts, and a difference is told', async () => {
    const name = 'model.embed_tokens.weight';
    for (const change of [undefined, flipLast]) {
      const folder = await changedCheckpoint('llama', {
        files: (all) => ({ [ONE]: all, [TWO]: [copied(all, name, name, change)] }),
        json: { [INDEX]: { weight_map: { a: ONE, b: TWO, [name]: ONE } } },
      });
      const { model, warnings } = await openModel(folder);
      expect(model.tables[0]?.extent.fileIndex).toBe(1);
      const told = warnings.filter((warning) =>
        /more than one shard, and their contents differ/.test(warning),
      );
      expect(told).toHaveLength(change ? 1 : 0);
    }
  });
});
