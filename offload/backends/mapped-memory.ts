// Host memory of every native backend: mapped by the addon, seen from JavaScript.

import { OperatingError } from '../errors.js';
import type { HostMemory } from '../port/backend.js';
import { native } from '../port/native.js';
import type { NativeMemory } from '../port/native-io.js';
import { formatBytes } from '../units.js';

export class MappedMemory implements HostMemory {
  readonly native: NativeMemory;
  readonly id: number;
  readonly sizeBytes: number;
  #bytes: Uint8Array<ArrayBuffer> | undefined;

  constructor(sizeBytes: number, hugePages: boolean) {
    try {
      this.native = new (native().NativeMemory)(sizeBytes, hugePages);
    } catch (error) {
      throw new OperatingError(
        'DOES_NOT_FIT',
        `${formatBytes(sizeBytes)} of memory cannot be allocated: ${String(error)}`,
      );
    }
    this.id = this.native.id;
    this.sizeBytes = sizeBytes;
  }

  /** Made at first use: a view is limited to 4 GiB, and only small control memory needs one. */
  get bytes(): Uint8Array<ArrayBuffer> {
    this.#bytes ??= new Uint8Array(this.native.view(0, this.sizeBytes));
    return this.#bytes;
  }
}
