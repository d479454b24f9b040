// A backend one of whose devices meets a bad index in the middle of its work, as a fault of the machine would show.

import { present } from '../../offload/index.js';
import type { Backend, DeviceStream, HostMemory } from '../../offload/port/backend.js';
import { tensor } from '../../offload/port/tensor.js';

/** From its `after`-th operation on, the device's kernels meet row 1000 of a table that has 2. */
export function failingDevice(backend: Backend, device: number, after: number): Backend {
  const tables: HostMemory = backend.allocateHost(4096, 'control');
  new Int32Array(tables.bytes.buffer, tables.bytes.byteOffset, 1).fill(1000);
  const broken = present(backend.devices[device], 'device');
  const out = broken.allocate(1024);
  const { compute } = broken;
  const launch: DeviceStream['launch'] = compute.launch.bind(compute);
  let launched = 0;
  compute.launch = (op) => {
    if (++launched === after) {
      launch({
        op: 'gather_rows',
        out: tensor(out, 0, 'f32', [1, 4]),
        table: tensor(tables, 2048, 'f32', [2, 4]),
        rows: tensor(tables, 0, 'i32', [1]),
        accumulate: false,
        scale: 1,
      });
    }
    launch(op);
  };
  return backend;
}
