// What the types of keys and values are called, and which heads they are for.

import { describe, expect, it } from 'vitest';
import { alikeCaches } from '../../offload/model/cache-spec.js';
import { checkKvType, KV_CHOICES, KV_TYPE_NAMES, kvTypeOf } from '../../offload/model/kv-type.js';
import { makePlan } from '../../offload/plan/make-plan.js';
import { parseCommandLine } from '../../src/cli/command-line.js';
import { readSharedOptions } from '../../src/cli/options/shared-options.js';
import { optionsFor } from '../helpers/plan-options.js';
import { makeToyModel } from '../simulation/toy-model.js';
import { Random } from '../simulator/random.js';

describe('types of keys and values', () => {
  it('are asked for by name', () => {
    const found = KV_CHOICES.map(kvTypeOf);
    expect(found).toEqual([undefined, 'f16', 'bf16', 'e4m3', 'i8', 'u8']);
    const names = found.map((type) => (type ? KV_TYPE_NAMES[type] : 'auto'));
    expect(names).toEqual(KV_CHOICES);
  });

  it.each(KV_CHOICES)('--kv_dtype %s of every command that keeps any', (name) => {
    for (const command of ['generate', 'chat', 'plan', 'score']) {
      const input = command === 'score' ? ['--token_ids', 'f'] : [];
      const parsed = parseCommandLine([command, '--name', 'm', ...input, '--kv_dtype', name]);
      if (parsed.kind !== 'run') throw new Error(`${command} is a command`);
      expect(readSharedOptions(parsed.options).plan.kvType, command).toBe(kvTypeOf(name));
    }
  });

  it('of another name are refused', () => {
    const parsed = parseCommandLine(['plan', '--name', 'm', '--kv_dtype', 'float8']);
    expect(() => parsed.kind === 'run' && readSharedOptions(parsed.options)).toThrow(
      "--kv_dtype is 'float8': give one of auto, float16, bfloat16, fp8, int8, int4",
    );
  });

  it('of 4 bits are for heads of an even size', () => {
    for (const headDim of [2, 30, 80]) {
      expect(() => checkKvType('u8', alikeCaches(2, 1, headDim))).not.toThrow();
    }
    const { model } = makeToyModel(new Random(1), 1);
    const workload = { sequences: 1, contextTokens: 8, promptTokens: 4, output: 'tokens' } as const;
    const plan = (kvType: 'u8' | 'i8') =>
      makePlan({ ...model, caches: alikeCaches(1, 2, 7) }, workload, optionsFor('dram', { kvType }));
    expect(() => plan('u8')).toThrow(/--kv_dtype is int4, .* heads of this model have 7: give int8 or fp8/);
    expect(plan('i8').kvType).toBe('i8');
  });
});
