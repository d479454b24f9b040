// Drawing tokens on the CPU, for every instruction set: the cases of every device, and tables that are wrong.

import { describe, expect, it } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/port/native.js';
import type { SamplingTables } from '../../offload/port/ops.js';
import { CPU_KERNELS } from './cpu-device.js';
import { PLAIN, sampleCases, tablesOf } from './sample-cases.js';

for (const device of CPU_KERNELS) {
  describe.skipIf(!device.present)(`sample with ${device.isa}`, () => {
    sampleCases(device);

    it('tables that point beyond the history or the vocabulary end the operation', async () => {
      device.use();
      const bench = device.workbench(2);
      const [logits, out] = [bench.activation([1, 4]), bench.index([0])];
      const good = tablesOf(bench, [{ ...PLAIN, history: [1, 2] }]);
      const broken = async (tables: SamplingTables) => {
        const stream = native().createStream('sample');
        stream.launch(encodeOp({ op: 'sample', out, logits, tables }));
        await stream
          .record()
          .promise()
          .finally(() => stream.close());
      };
      await expect(broken({ ...good, draws: bench.table([[0, 0, 1, 2]]) })).rejects.toThrow('from 1 to 3');
      const added = (entries: number[], tokens: number[]) => ({
        ...good,
        added: {
          entriesOf: bench.table([entries]),
          tokens: bench.index(tokens),
          values: bench.memory.tensor('f32', [tokens.length]),
        },
      });
      await expect(broken(added([1, 2], [0, 1]))).rejects.toThrow('from 1 to 3');
      await expect(broken(added([-1, 1], [0, 1]))).rejects.toThrow('from -1 to 0');
      await expect(broken(added([0, 1], [4]))).rejects.toThrow('token 4, entry 0');
      await expect(broken({ ...good, history: bench.index([1, 4]) })).rejects.toThrow('token 4 at 1');
    });
  });
}
