// What a machine's description has, key by key.

import { z } from 'zod';

const bytes = z.number().int().positive();
const rate = z.number().positive();
const milliseconds = z.number().nonnegative();

export const schema = z.strictObject({
  name: z.string().min(1),
  /** Memory of the host that weights, buffers and tables may take. */
  dramBytes: bytes,
  /** The drive through the read engine, or several as one; null where it was not measured. */
  drive: z
    .strictObject({
      bytesPerSecond: rate,
      /** From asking for a small piece until it is there. */
      latencyMs: milliseconds,
      /** What each of several drives yields, where weights are striped over them; the rate above is that of all together. */
      each: z.array(rate).min(2).optional(),
    })
    .nullable(),
  devices: z.strictObject({
    /** `cpu` computes on the host's buffers in place; `gpu` has memory of its own. */
    kind: z.enum(['cpu', 'gpu']),
    count: z.number().int().positive(),
    /** Memory of one device; null where it computes in place. */
    memoryBytes: bytes.nullable(),
    /** Host to device, of one link while all are busy. */
    linkBytesPerSecond: rate.nullable(),
    /** What the processor reads of memory while the link is busy; left out where it was not measured. */
    hostBytesPerSecond: rate.optional(),
    /** Between devices; null where they share no fast link. */
    peerBytesPerSecond: rate.nullable(),
  }),
  compute: z.strictObject({
    /** Reading memory with all threads: what bounds decode in place. */
    memoryBytesPerSecond: rate,
    /** Multiply-adds on registers, counting two: what bounds prefill. */
    peakFlopsPerSecond: rate,
    /** Products with weights that were not in a cache, per type of the weights, at growing numbers of tokens. */
    products: z
      .array(
        z.strictObject({
          weightType: z.enum(['f32', 'f16', 'bf16']),
          points: z
            .array(z.strictObject({ tokens: z.number().int().positive(), flopsPerSecond: rate }))
            .min(1)
            .refine(
              (points) => points.every(({ tokens }, i) => i === 0 || tokens > (points[i - 1]?.tokens ?? 0)),
              {
                error: 'points must be in order of tokens',
              },
            ),
        }),
      )
      .min(1),
    /** Cached keys and values read by attention of one new token per sequence. */
    attentionBytesPerSecond: rate,
    /** Attention of a prompt to itself. */
    attentionFlopsPerSecond: rate,
    /** Bytes that gated activations, norms and sums read and write. */
    elementwiseBytesPerSecond: rate,
    /** From one small operation of a stream to the next. */
    launchMs: milliseconds,
    /** Between passes: reading tokens, tables of the next pass. */
    passMs: milliseconds,
  }),
});
