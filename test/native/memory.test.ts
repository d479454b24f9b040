// Host memory of the addon: pages that come beside the caller, and never over what was written meanwhile.

import { constants } from 'node:buffer';
import { release } from 'node:os';
import { describe, expect, it, vi } from 'vitest';
import { MappedMemory } from '../../offload/backends/mapped-memory.js';
import { MiB, OperatingError } from '../../offload/index.js';
import { native } from '../../offload/port/native.js';
import { HANG_MS } from '../helpers/hang.js';

const SIZE = 256 * MiB;
/** MADV_POPULATE_WRITE came with Linux 5.14. */
const [major = 0, minor = 0] = release().split('.').map(Number);
const CAN_POPULATE = major > 5 || (major === 5 && minor >= 14);

describe.skipIf(!CAN_POPULATE)('populateSoon', () => {
  it('has the system give a block its pages, and leaves what is written meanwhile', async () => {
    const memory = new (native().NativeMemory)(SIZE, true);
    const words = new Uint32Array(memory.view(0, SIZE));
    const before = process.memoryUsage().rss;
    memory.populateSoon();
    // Too few to bring the pages by themselves.
    const apart = (16 * MiB) / 4;
    for (let at = 5; at < words.length; at += apart) words[at] = at;
    await vi.waitFor(() => expect(process.memoryUsage().rss - before).toBeGreaterThan(0.9 * SIZE), {
      timeout: HANG_MS,
      interval: 20,
    });
    for (let at = 5; at < words.length; at += apart) expect(words[at]).toBe(at);
    memory.free();
  });

  it('leaves out blocks that are gone', () => {
    const memory = new (native().NativeMemory)(MiB, false);
    memory.populateSoon();
    memory.free();
    expect(() => memory.populateSoon()).toThrow('used after free');
  });
});

describe('memory that JavaScript sees', () => {
  it('is refused in a sentence where it is more than it can see, and the process goes on', () => {
    // Where more is seen than can be mapped, mapping it is what is refused.
    const seen = () => new MappedMemory(constants.MAX_LENGTH + 1, false).bytes;
    expect(seen).toThrow(OperatingError);
    expect(seen).toThrow(expect.objectContaining({ code: 'DOES_NOT_FIT' }));
  });

  it('is written where it is seen', () => {
    const memory = new MappedMemory(MiB, false);
    memory.bytes[MiB - 1] = 7;
    expect(memory.bytes[MiB - 1]).toBe(7);
    memory.native.free();
  });
});
