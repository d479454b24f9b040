// An input whose group does not exist, in a weight with scattered groups. A file, and so a process, of its own.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { present } from '../../offload/errors.js';
import { gpuBench, gpuStream, HAS_GPU } from './cuda-device.js';
import { buildWeight, WEIGHT_KINDS } from './weight-builder.js';

describe.skipIf(!HAS_GPU)('a group that is none', () => {
  it('is named, and ends the work', async () => {
    const bench = gpuBench(1, false);
    const kind = WEIGHT_KINDS.find(({ name, isScattered }) => name === 'gptq' && isScattered === true);
    const weight = buildWeight(bench, present(kind, 'kind'), [16, 96]);
    const groups = present(weight.parts.groups, 'groups');
    bench.memory.fill(groups, (k) => (k === 41 ? 1e9 : 0));
    const [x, out] = [bench.activation([3, 96]), bench.activation([3, 16])];
    const op = { op: 'linear', out, x, weight, bias: null, activation: 'none', accumulate: false } as const;
    gpuStream().launch(encodeOp(op));
    await expect(gpuStream().record().promise()).rejects.toThrow(
      'input 41 has group 1000000000, which is none of 3',
    );
  });
});
