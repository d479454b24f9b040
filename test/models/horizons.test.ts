// What a block's cache keeps is what its attention sees, in every family: pages are given back by the one and read by the other.

import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { present } from '../../offload/errors.js';
import { pagedCache } from '../../offload/model/cache-spec.js';
import { ForwardWalk } from '../../offload/model/forward-walk.js';
import { horizonOf } from '../../offload/model/horizon.js';
import { textPart } from '../../src/checkpoint/text-part.js';
import { shapeModel } from '../../src/engine/shape.js';
import type { JsonObject } from '../../src/files/json-file.js';
import { SMALL } from './small-configs.js';

const FIXTURES = fileURLToPath(new URL('../fixtures/models', import.meta.url));
/** Matrices that are stored in few bits have shapes of their own, and the same attention. */
const names = readdirSync(FIXTURES).filter((name) => !name.startsWith('q-') && name !== 'gpt_oss-mxfp4');
const configs: [string, JsonObject][] = [
  ...Object.entries(SMALL),
  ...names.map((name): [string, JsonObject] => [
    `fixture ${name}`,
    JSON.parse(readFileSync(`${FIXTURES}/${name}/config.json`, 'utf8')),
  ]),
];
const horizons = new Set<string>();

it.each(configs)('%s', (name, config) => {
  const { model } = shapeModel(config, name);
  let [block, seen] = [0, 0];
  const walk = new ForwardWalk(model, { activationType: 'f32', kvType: 'f32' }, (op) => {
    // A window of a state is as long as what it is seen through.
    if (op.op === 'window_attention') seen++;
    if (op.op !== 'attention') return;
    const { windowTokens = 0, chunkTokens = 0 } = op.score;
    const kept = present(pagedCache(model.caches, block), 'pages');
    const keeps = [kept.windowTokens ?? 0, kept.chunkTokens ?? 0];
    expect(keeps, `block ${block}`).toEqual([windowTokens, chunkTokens]);
    seen++;
    if (horizonOf(kept)) horizons.add(String(textPart(config).config.model_type));
  });
  for (; block < model.blocks.length; block++) walk.block(block, 3);
  expect(seen).toBeGreaterThan(0);
});

it('among them are all families that slide or see chunks', () => {
  const families =
    'cohere2 exaone4 gemma2 gemma3_text gemma4_text gpt_neo gpt_oss llama4_text mimo_v2_flash mistral mixtral olmo3 phi3 qwen2 qwen3 starcoder2 step3p5';
  expect([...horizons]).toEqual(expect.arrayContaining(families.split(' ')));
});
