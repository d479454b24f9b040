// A weight in memory as a matrix that is stored in a file.

import type { MatrixSpec, TensorSpec } from '../../offload/model/layout.js';
import { DTYPE_BYTES, elementCount } from '../../offload/port/dtype.js';
import type { Tensor, Weight } from '../../offload/port/ops.js';

/** The weight's tensors as extents of a file that is the memory. */
export function specOf({ format, shape, firstRow, parts }: Weight): MatrixSpec {
  const specs = Object.entries(parts).map(([name, tensor]: [string, Tensor]): [string, TensorSpec] => {
    const sizeBytes = elementCount(tensor.shape) * DTYPE_BYTES[tensor.dtype];
    const extent = { fileIndex: 0, fileOffset: tensor.offsetBytes, sizeBytes };
    return [name, { key: name, dtype: tensor.dtype, shape: tensor.shape, extent }];
  });
  return { key: 'matrix', format, shape, firstRow, parts: Object.fromEntries(specs) };
}
