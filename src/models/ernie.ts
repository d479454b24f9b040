// ERNIE 4.5 (Baidu 2025): Llama's block, heads turned in neighbouring pairs; dense, or softmax experts with a bias for the choice.

import { PLAIN_ROUTE } from '../../offload/index.js';
import type { ConfigReader } from '../checkpoint/config-reader.js';
import type { Architecture } from './architecture.js';
import { buildLlama } from './llama.js';
import { readChoices } from './mixture.js';
import { sharedExperts } from './shared-experts.js';
import { readSparseLayers } from './sparse-layers.js';

export const ernie: Architecture = {
  modelTypes: ['ernie4_5'],
  isShareable: true,
  build: (config) =>
    buildLlama(config, { ...commonTraits(config), architecture: 'ernie4_5', defaultHeadDim: 128 }),
};

export const ernieMoe: Architecture = {
  modelTypes: ['ernie4_5_moe'],
  isShareable: true,
  build: (config) => {
    const bias = config.flag(['use_bias'], false);
    const { expertCount, chosen } = readChoices(config, { experts: 64, chosen: 6 }, [
      'moe_k',
      'num_experts_per_tok',
    ]);
    const I = config.count(['moe_intermediate_size'], 1536);
    return buildLlama(config, {
      ...commonTraits(config),
      architecture: 'ernie4_5_moe',
      headBias: bias,
      feedForward: sharedExperts(config, {
        I,
        expertCount,
        router: {
          names: ['mlp.gate.weight'],
          chosen,
          rule: { ...PLAIN_ROUTE, normalize: true, leastSum: config.number(['moe_norm_min'], 1e-12) },
          bias: {
            names: [
              'mlp.moe_statics.e_score_correction_bias',
              'mlp.gate.moe_statics.e_score_correction_bias',
            ],
            stored: [1, expertCount],
          },
        },
        sharedI: I * config.number(['moe_num_shared_experts'], 2),
        isSparse: readSparse(config, config.count(['num_hidden_layers'])),
        denseI: 12288,
        bias,
      }),
    });
  },
};

function commonTraits(config: ConfigReader) {
  const bias = config.flag(['use_bias'], false);
  return {
    qkvBias: bias,
    outBias: bias,
    mlpBias: bias,
    defaultContext: 131072,
    defaultEps: 1e-5,
    defaultRopeBase: 500000,
    interleaved: true,
    tiedByDefault: true,
  } as const;
}

/** Every `moe_layer_interval`-th layer from the first that may have experts to the last, −1 for the model's last. */
function readSparse(config: ConfigReader, blockCount: number): (blockIndex: number) => boolean {
  const interval = config.count(['moe_layer_interval'], 1);
  const first = config.number(['moe_layer_start_index'], 1);
  const end = config.number(['moe_layer_end_index'], -1);
  const last = end === -1 ? blockCount - 1 : end;
  return readSparseLayers(
    config,
    blockCount,
    (index) => (index + 1) % interval === 0 && index >= first && index <= last,
  );
}
