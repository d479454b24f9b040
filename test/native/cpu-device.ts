// The CPU's kernels, one set per instruction set, as a device of the kernel tests.

import { afterAll } from 'vitest';
import { encodeOp } from '../../offload/backends/op-encoding.js';
import { native } from '../../offload/port/native.js';
import type { KernelDevice, Shift } from './workbench.js';
import { workbench } from './workbench.js';

export interface CpuKernels extends KernelDevice {
  readonly isa: string;
  readonly present: boolean;
  /** Products with bf16 weights round their inputs to bf16. */
  readonly rounds: boolean;
}

/** Activations lie at multiples of four bytes, weights at any byte, as files have them. */
const shift: Shift = (int, _dtype, kind) => (kind === 'weight' ? int(7) : 4 * int(3));

const stream = native().createStream('kernels');
afterAll(() => {
  stream.close();
  native().configureCpu({ threads: 0 });
});

function kernelsOf(isa: string): CpuKernels {
  const rounds = isa.endsWith('bf16');
  return {
    kind: 'cpu',
    isa,
    present: native().instructionSets().includes(isa),
    rounds,
    placings: [true],
    workbench: (seed, awkward = true) => workbench(seed, awkward ? shift : undefined),
    run: async (op) => {
      stream.launch(encodeOp(op));
      await stream.record().promise();
    },
    use: (threads = 2) => native().configureCpu({ threads, isa }),
    productTolerance: () => 1e-5,
    productInput: (bench, dtype, shape) =>
      rounds && dtype === 'bf16' ? bench.roundedActivation(shape) : bench.activation(shape),
  };
}

export const CPU_KERNELS: readonly CpuKernels[] = ['avx2', 'avx512', 'avx512bf16'].map(kernelsOf);
/** Those with products of their own; in all else the last two are avx512. */
export const PRODUCT_KERNELS: readonly CpuKernels[] = [...CPU_KERNELS, ...['amx', 'amxbf16'].map(kernelsOf)];
