// DeepSeek-V4 (DeepSeek-AI 2026): four streams of residual, attention over a window and compressed entries, and mixtures whose
// first layers choose experts by the token itself.

import {
  columns,
  dimension,
  type ForwardOps,
  type LayerForward,
  type Tensor,
  type Weights,
} from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import { type Architecture, type ArchitectureModel, PLAIN_LOGITS, type TensorDef } from './architecture.js';
import { type CompressedAttention, readCompressedAttention } from './deepseek-v4-attention.js';
import { type HashedMixture, readHashedMixture } from './deepseek-v4-mixture.js';
import { spelt, speltVector } from './deepseek-v4-names.js';

export const deepseekV4: Architecture = { modelTypes: ['deepseek_v4'], build };

/** Hyper-connections (Xie et al. 2026). */
interface Streams {
  readonly H: number;
  readonly count: number;
  readonly iterations: number;
  readonly eps: number;
  readonly normEps: number;
}

function build(config: ConfigReader): ArchitectureModel {
  config.refuseUnless(false, 'attention_bias', 'mlp_bias');
  const H = config.count(['hidden_size']);
  const V = config.count(['vocab_size']);
  const blockCount = config.count(['num_hidden_layers']);
  const normEps = config.number(['rms_norm_eps'], 1e-6);
  const streams = readStreams(config, H, normEps);
  const attention = readCompressedAttention(config, { H, blockCount, normEps });
  const mixture = readHashedMixture(config, { H, V, blockCount });
  return {
    architecture: 'deepseek_v4',
    hiddenSize: streams.count * H,
    vocabSize: V,
    ...attention.limits,
    blocksReadTokens: mixture.readsTokens,
    caches: Array.from({ length: blockCount }, (_, index) => attention.cache(index)),
    blockCount,
    prefixes: ['', 'model.'],
    unneeded: /\.(attn|self_attn\.compressor)\.indexer\./,
    tables: [
      {
        ...spelt('', 'embed.weight', [V, H]),
        key: 'tokens',
        rowsFrom: 'token',
        rowOffset: 0,
      },
    ],
    fixed: [speltVector('', 'norm.weight', [H]), ...streamTensors(streams, '', 'hc_head')],
    block: (index) => {
      const path = `layers.${index}.`;
      return [
        ...streamTensors(streams, path, 'hc_attn'),
        speltVector(path, 'attn_norm.weight', [H]),
        ...attention.tensors(index, path),
        ...streamTensors(streams, path, 'hc_ffn'),
        speltVector(path, 'ffn_norm.weight', [H]),
        ...mixture.tensors(index, path),
      ];
    },
    head: {
      projection: { ...spelt('', 'head.weight', [V, H]), key: 'projection' },
      tied: config.flag(['tie_word_embeddings'], false),
    },
    logits: PLAIN_LOGITS,
    constants: attention.constants,
    forward: forward(streams, attention, mixture),
  };
}

/** More would be no model that anybody has published, and kernels keep them in registers. */
const MOST_STREAMS = 8;

function readStreams(config: ConfigReader, H: number, normEps: number): Streams {
  const count = config.count(['hc_mult'], 4);
  if (count > MOST_STREAMS) throw config.unsupported('hc_mult', count, `1 to ${MOST_STREAMS}`);
  return {
    H,
    count,
    iterations: config.count(['hc_sinkhorn_iters'], 20),
    eps: config.number(['hc_eps'], 1e-6),
    normEps,
  };
}

/** What tells how streams are read and, but for the head's, written. */
function streamTensors({ H, count }: Streams, path: string, name: string): TensorDef[] {
  const isHead = name === 'hc_head';
  const logits = isHead ? count : (2 + count) * count;
  return [
    // Its products decide what a layer sees, and it is small.
    { ...spelt(path, `${name}_fn`, [logits, count * H]), isRouter: true },
    speltVector(path, `${name}_base`, [logits]),
    speltVector(path, `${name}_scale`, [isHead ? 1 : 3]),
  ];
}

/** T tokens, H hidden size, n streams. */
function forward(streams: Streams, attention: CompressedAttention, mixture: HashedMixture): LayerForward {
  const { H, count, normEps: eps } = streams;
  const weigh = streamWeights(streams);
  return {
    embed(k, _w, rows, x) {
      const { table, rows: indices } = rows('tokens');
      for (let stream = 0; stream < count; stream++) k.gather(columns(x, stream * H, H), table, indices);
    },

    block(k, w, x, blockIndex) {
      const seeing = weigh(k, w, x, 'hc_attn');
      const read = k.hyperGather(x, seeing); // [T, H]
      const normed = k.rmsNorm(read, w('attn_norm.weight'), eps);
      k.hyperMix(x, attention.result(k, w, normed, blockIndex), seeing);

      const thinking = weigh(k, w, x, 'hc_ffn');
      const again = k.hyperGather(x, thinking); // [T, H]
      // Not rounded: where two experts are nearly even, that would turn the choice.
      const routed = k.rmsNorm(again, w('ffn_norm.weight'), eps, 0, k.floats(again.shape));
      k.hyperMix(x, mixture.result(k, w, routed, blockIndex), thinking);
    },

    headInput(k, w, x, out) {
      const read = k.hyperGather(x, weigh(k, w, x, 'hc_head')); // [R, H]
      k.rmsNorm(read, w('norm.weight'), eps, 0, out);
    },
  };
}

/** How the streams of x [T, n · H] are read and written, by the tensors of that name. */
function streamWeights({ count, iterations, eps, normEps }: Streams) {
  return (k: ForwardOps, w: Weights, x: Tensor, name: string) => {
    const fn = w.matrix(`${name}_fn`); // [2n + n², n · H], the head's [n, n · H]
    const normed = k.rmsNorm(x, null, normEps, 0, k.floats(x.shape));
    const logits = k.linear(normed, fn, {}, k.floats([dimension(x, 0), fn.shape[0]]));
    const [base, scale] = [w(`${name}_base`), w(`${name}_scale`)];
    return k.hyperWeights(logits, count, { base, scale, iterations, eps });
  };
}
