// Log-probabilities of chosen tokens on any device, against those that the model's logits give.

import { expect, it } from 'vitest';
import { NO_TOKEN, present, type SamplingRow } from '../../offload/index.js';
import type { TopLogProbs } from '../../offload/run/top-log-probs.js';
import { spoilCheckpoint } from '../helpers/spoilt-checkpoint.js';
import { tempFolder } from '../helpers/temp-folder.js';
import { fixtureFolder, lastLogits, lastResults, type Placement, readGolden } from './run-model.js';

interface Chosen {
  readonly tokens: number[];
  readonly logProbs: number[];
  readonly top: TopLogProbs[];
}

const WANTED = 7;

/** The token after each prompt, and its log-probability where micro-batch `index` asks for it. */
async function choose(
  prompts: readonly (readonly number[])[],
  placement: Placement,
  options: { name?: string; folder?: string; draw?: SamplingRow; asks?: (index: number) => boolean } = {},
): Promise<Chosen> {
  const { name = 'llama', folder = fixtureFolder(name), draw, asks = () => true } = options;
  const results = await lastResults(folder, prompts, placement, 'tokens', (microBatch, index) => ({
    ...microBatch,
    ...(asks(index) ? { logProbs: true, topLogProbs: WANTED } : {}),
    ...(draw ? { sampling: Array.from(microBatch.outputs, () => draw) } : {}),
  }));
  const chosen: Chosen = { tokens: [], logProbs: [], top: [] };
  for (const { result } of results) {
    chosen.tokens.push(...result.tokens);
    chosen.logProbs.push(...result.logProbs);
    chosen.top.push(...(result.top ?? []));
  }
  return chosen;
}

function logSoftmax(logits: Float32Array, token: number): number {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0);
  return (logits[token] ?? Number.NaN) - most - Math.log(total);
}

/** Hot, so that tokens are far from the likeliest, and with a penalty on every likely one. */
const DRAW: SamplingRow = {
  temperature: 3,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 5,
  history: Int32Array.from({ length: 30 }, (_, i) => i * 7),
  randomBits: 0x9e3779b9,
};

/** @param tolerance absolute, of a logarithm */
export function logProbCases(placement: Placement, others: readonly Placement[], tolerance: number): void {
  // With a soft cap on logits, with a bias of the head, and a mixture.
  it.each(['llama', 'gemma2', 'gptj', 'mixtral'])(
    '%s: of the likeliest and of drawn tokens',
    async (name) => {
      const prompts = readGolden(name).input_ids;
      const logits = await lastLogits(name, prompts, placement);
      for (const draw of [undefined, DRAW]) {
        const { tokens, logProbs, top } = await choose(prompts, placement, {
          name,
          ...(draw ? { draw } : {}),
        });
        expect(logProbs).toHaveLength(prompts.length);
        logProbs.forEach((logProb, index) => {
          const expected = logSoftmax(present(logits[index], 'logits'), present(tokens[index], 'token'));
          expect(Math.abs(logProb - expected)).toBeLessThan(tolerance);
        });
        top.forEach((found, index) => {
          const row = present(logits[index], 'logits');
          const [first = 0, last = 0] = [found.logProbs[0], found.logProbs.at(-1)];
          found.tokens.forEach((token, place) => {
            const gap = (found.logProbs[place] ?? 0) - logSoftmax(row, token);
            expect(Math.abs(gap)).toBeLessThan(tolerance);
          });
          expect([...found.logProbs].sort((a, b) => b - a)).toEqual([...found.logProbs]);
          expect(new Set(found.tokens).size).toBe(WANTED);
          const better = row.filter((_, token) => logSoftmax(row, token) > last + tolerance);
          expect(better.length).toBeLessThan(WANTED);
          if (!draw) expect(first).toBe(logProbs[index]);
        });
        expect(top).toHaveLength(prompts.length);
      }
    },
  );

  it('depend on neither micro-batch nor placement', async () => {
    const prompts = readGolden('llama').input_ids;
    const expected = await choose(prompts, placement);
    for (const other of others) expect(await choose(prompts, other)).toEqual(expected);
    const [first, second] = prompts;
    const alone = await choose([present(second, 'prompt')], placement);
    const reversed = await choose(
      [second, first].map((prompt) => present(prompt, 'prompt')),
      placement,
    );
    expect(alone.logProbs).toEqual(expected.logProbs.slice(1, 2));
    expect(reversed.logProbs).toEqual([...expected.logProbs.slice(0, 2)].reverse());
  });

  it('of micro-batches that ask for them only, and of none where none does', async () => {
    const prompts = readGolden('llama').input_ids;
    const each: Placement = { ...placement, plan: { ...placement.plan, microBatchSequences: 1 } };
    const all = await choose(prompts, each);
    expect(all.logProbs.every((logProb) => logProb < 0)).toBe(true);
    const some = await choose(prompts, each, { asks: (index) => index === 1 });
    expect(some.tokens).toEqual(all.tokens);
    expect(some.logProbs).toEqual(all.logProbs.map((logProb, index) => (index === 1 ? logProb : Number.NaN)));
    const none = await choose(prompts, each, { asks: () => false });
    expect(none).toEqual({ tokens: all.tokens, logProbs: [], top: [] });
  });

  it.each([undefined, DRAW])('none of a sequence whose logits are not finite', async (draw) => {
    const folder = tempFolder();
    const prompts = [
      [9, 10, 11],
      [5, 6, 7, 8],
    ];
    spoilCheckpoint(folder, 'llama', [
      { tensor: 'model.embed_tokens.weight', index: 9 * 64, value: Number.NaN },
    ]);
    const asked = draw ? { draw } : {};
    const sound = await choose(prompts, placement, asked);
    const spoilt = await choose(prompts, placement, { folder, ...asked });
    expect(spoilt.tokens).toEqual([NO_TOKEN, sound.tokens[1]]);
    expect(spoilt.logProbs).toEqual([Number.NaN, sound.logProbs[1]]);
  });
}
