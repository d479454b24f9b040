// What do sums of all GPUs cost? Of few tokens a few microseconds; of many, what their bytes take between two GPUs by peer copies both ways
// at once, which are measured in the same run.
//
// node dist/bench/gpu/reduce.js [--gpus 2] [--width 8192] [--host]
//
// `--host`: by memory of the host, as where GPUs do not reach each other's. Times are those of graphs that come again.

import { parseArgs } from 'node:util';
import { CudaBackend } from '../../offload/backends/cuda.js';
import { formatBytes, formatRate, present } from '../../offload/index.js';
import type { Exchange } from '../../offload/port/exchange.js';
import { native } from '../../offload/port/native.js';
import { tensor } from '../../offload/port/tensor.js';
import { median, printResult } from '../common.js';

const { values } = parseArgs({
  options: {
    gpus: { type: 'string', default: '2' },
    width: { type: 'string', default: '8192' },
    host: { type: 'boolean', default: false },
  },
});
const [gpus, width] = [Number(values.gpus), Number(values.width)];
const ROOM_BYTES = 64 << 20;
const COPY_BYTES = 256 << 20;
const IN_A_GRAPH = 16;
const RUNS = 9;

const devices = Array.from({ length: gpus }, (_, index) => index);
const backend = new CudaBackend({ devices });
const opened = native().openCudaExchange(devices, ROOM_BYTES, values.host);
const ends = opened.map(({ id }, rank): Exchange => ({ id, rank, count: gpus, sizeBytes: ROOM_BYTES }));
const memories = backend.devices.map((device) => ({
  x: device.allocate(2 * ROOM_BYTES),
  partial: device.allocate(COPY_BYTES),
  copied: device.allocate(COPY_BYTES),
}));

const copyBytesPerSecond = await peerRate();
const rows: { type: string; tokens: number; us: number; ofCopies: number }[] = [];
for (const type of ['f32', 'bf16'] as const) {
  for (const tokens of [1, 2, 4, 8, 32, 128, 512, 1024]) {
    const bytes = tokens * width * (type === 'f32' ? 4 : 2);
    const ms = await reduceMs(type, tokens);
    // What one rank sends at least: all of it to one other, or shares and their sums to all.
    const sent = gpus === 2 ? bytes : (2 * (gpus - 1) * bytes) / gpus;
    rows.push({ type, tokens, us: 1e3 * ms, ofCopies: sent / (ms / 1e3) / copyBytesPerSecond });
  }
}
for (const { type, tokens, us, ofCopies } of rows) {
  console.info(
    `${type} [${tokens}, ${width}]: ${us.toFixed(2)} µs, ${(100 * ofCopies).toFixed(1)} % of peer copies`,
  );
}
const [few, many] = [rows[0], rows.filter(({ type }) => type === 'f32').at(-1)];
printResult(
  `sums of ${gpus} GPUs${values.host ? ' by memory of the host' : ''}`,
  `[1, ${width}] in ${few?.us.toFixed(2)} µs; [${many?.tokens}, ${width}] at ${(100 * (many?.ofCopies ?? 0)).toFixed(1)} % of peer ` +
    `copies, ${formatRate(copyBytesPerSecond)} each way (${formatBytes(COPY_BYTES)})`,
  { ...values, copyBytesPerSecond, rows },
);
for (const end of opened) end.close();
await backend.close();
for (const end of opened) end.free();

/** What a GPU takes from its neighbour while all do. */
async function peerRate(): Promise<number> {
  const times: number[] = [];
  for (let run = 0; run < RUNS; run++) {
    const spans = backend.devices.map((device, index) => {
      const from = present(memories[(index + 1) % gpus], 'a neighbour').partial;
      const begin = device.gather.record();
      device.gather.copy(present(memories[index], 'memory').copied, 0, from, 0, COPY_BYTES);
      return { begin, end: device.gather.record() };
    });
    await Promise.all(spans.map(({ end }) => end.reached()));
    times.push(Math.max(...spans.map(({ begin, end }) => end.timeMs - begin.timeMs)));
  }
  return COPY_BYTES / (median(times) / 1e3);
}

/** What one reduce takes among many that follow each other. */
async function reduceMs(type: 'f32' | 'bf16', tokens: number): Promise<number> {
  const kept = backend.devices.map(({ compute }, rank) => {
    const { x, partial } = present(memories[rank], 'memory');
    return compute.keep(() => {
      for (let turn = 0; turn < IN_A_GRAPH; turn++) {
        compute.launch({
          ...{ op: 'reduce', exchange: present(ends[rank], 'an end'), accumulate: true },
          x: tensor(x, 0, 'f32', [tokens, width]),
          partial: tensor(partial, 0, type, [tokens, width]),
        });
      }
    });
  });
  const repeat = () => {
    backend.devices.forEach(({ compute }, rank) => {
      compute.repeat(present(kept[rank], 'work'));
    });
  };
  const times: number[] = [];
  for (let run = 0; run < RUNS + 2; run++) {
    repeat();
    const begins = backend.devices.map(({ compute }) => compute.record());
    for (let again = 0; again < 4; again++) repeat();
    const ended = backend.devices.map(({ compute }) => compute.record());
    await Promise.all(ended.map((event) => event.reached()));
    const spans = ended.map((event, rank) => event.timeMs - present(begins[rank], 'begin').timeMs);
    if (run >= 2) times.push(Math.max(...spans) / (4 * IN_A_GRAPH));
  }
  return median(times);
}
