// Host memory of every native backend: mapped by the addon, seen from JavaScript.

import { constants } from 'node:buffer';
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

  /** Made at first use, since only small control memory needs it. Throws DOES_NOT_FIT beyond what JavaScript sees at once. */
  get bytes(): Uint8Array<ArrayBuffer> {
    this.#bytes ??= this.#seen();
    return this.#bytes;
  }

  #seen(): Uint8Array<ArrayBuffer> {
    if (this.sizeBytes > constants.MAX_LENGTH) {
      // Node ends the process where a larger view is made of memory that is not its own.
      throw new OperatingError(
        'DOES_NOT_FIT',
        `${formatBytes(this.sizeBytes)} of results or tables of a pass are more than the ${formatBytes(constants.MAX_LENGTH)} that ` +
          'this version of Node sees at once: give a smaller --batch_size, or use a newer Node',
      );
    }
    return new Uint8Array(this.native.view(0, this.sizeBytes));
  }
}
