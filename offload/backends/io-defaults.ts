// How the read engine is set up unless the user says otherwise.

import type { IoOptions } from '../port/native-io.js';

/**
 * Chosen with bench/ring-read.ts on a virtual disk (ext4, O_DIRECT, 2 GiB of random bytes, medians of three rounds,
 * limit 1.55 GB/s, noise about 10 %): from 4 MiB in flight on (chunks of 512 KiB at depth 8), every combination reads
 * 1.14 to 1.37 GB/s; 128 KiB chunks stay at 0.94 to 1.17. CPU falls with the chunk size: at depth 32, 4.9 % of a core
 * at 128 KiB, 2.2 % at 512 KiB, 1.2 % at 1 MiB, 0.5 % at 4 MiB. 32 chunks of 1 MiB leave room for faster drives, and
 * the chunk stays small against a layer, so that a layer's last bytes do not wait for one long read. At these values
 * plain buffers cost 1.3 % and eight pread threads 3.3 % of a core, at the same rate.
 */
export const DEFAULT_IO_OPTIONS: IoOptions = {
  engine: 'auto',
  queueDepth: 32,
  chunkBytes: 1 << 20,
  direct: true,
  fixedBuffers: true,
};
