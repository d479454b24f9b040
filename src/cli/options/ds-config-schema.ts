// The keys of DeepSpeed's configuration files: which of them apply here, and why the others cannot.

import { createRequire } from 'node:module';
import type * as Zod from 'zod';

/** Zod takes a tenth of a second to load, which a run without such a file does not spend. */
export function dsConfigSchema() {
  const { z } = createRequire(import.meta.url)('zod') as typeof Zod;
  /** Integrations write "auto" for what they are to fill in; here it leaves the choice to the planner. */
  const orAuto = <T extends Zod.ZodType>(type: T) => z.union([type, z.literal('auto')]).optional();
  /** DeepSpeed's files write large counts as 1e8. */
  const count = orAuto(z.number().int().positive());
  const amount = orAuto(z.number().int().nonnegative());
  const flag = orAuto(z.boolean());
  const enabled = z.looseObject({ enabled: flag }).optional();
  return z.looseObject({
    train_micro_batch_size_per_gpu: count,
    bf16: enabled,
    fp16: enabled,
    tensor_parallel: z.looseObject({ enabled: flag, tp_size: count }).optional(),
    mp_size: count,
    zero_optimization: z
      .looseObject({
        stage: amount,
        offload_param: z
          .looseObject({
            device: z.enum(['none', 'cpu', 'nvme']).optional(),
            nvme_path: z.string().min(1).nullable().optional(),
            buffer_count: count,
            buffer_size: count,
            max_in_cpu: amount,
            pin_memory: flag,
          })
          .optional(),
        stage3_prefetch_bucket_size: amount,
      })
      .optional(),
    aio: z
      .looseObject({
        block_size: count,
        queue_depth: count,
        intra_op_parallelism: count,
        thread_count: count,
        single_submit: flag,
        overlap_events: flag,
        use_gds: flag,
      })
      .optional(),
  });
}

export type DsConfig = Zod.infer<ReturnType<typeof dsConfigSchema>>;

/** Keys that are read, by path; they need no word here. */
export const APPLIED: readonly string[] = [
  'train_micro_batch_size_per_gpu',
  'bf16.enabled',
  'fp16.enabled',
  'tensor_parallel.enabled',
  'tensor_parallel.tp_size',
  'mp_size',
  'zero_optimization.stage',
  'zero_optimization.offload_param.device',
  'zero_optimization.offload_param.nvme_path',
  'zero_optimization.offload_param.buffer_count',
  'zero_optimization.offload_param.buffer_size',
  'zero_optimization.offload_param.max_in_cpu',
  'zero_optimization.stage3_prefetch_bucket_size',
  'aio.block_size',
  'aio.queue_depth',
  'aio.intra_op_parallelism',
  'aio.thread_count',
];

const TRAINING = 'it is about training, and nothing is trained here';
const STREAMED = 'layers are streamed whole, not gathered parameter by parameter';
const RING = 'one thread keeps the whole queue full';
const STORED = 'weights are used in the type they are stored in';
const SCALING = 'nothing is scaled: sums are float32';
const DEVICE = 'kernels are chosen by the device';
const REPORTS = 'use --report, --trace and --benchmark';

/** Keys of DeepSpeed that cannot apply, and why; a path stands for everything below it. */
export const INAPPLICABLE: Readonly<Record<string, string>> = {
  train_batch_size: 'the batch is train_micro_batch_size_per_gpu or --batch_size',
  gradient_accumulation_steps: TRAINING,
  gradient_clipping: TRAINING,
  gradient_predivide_factor: TRAINING,
  prescale_gradients: TRAINING,
  sparse_gradients: TRAINING,
  communication_data_type: TRAINING,
  optimizer: TRAINING,
  scheduler: TRAINING,
  zero_allow_untested_optimizer: TRAINING,
  zero_force_ds_cpu_optimizer: TRAINING,
  data_types: TRAINING,
  checkpoint: TRAINING,
  activation_checkpointing: TRAINING,
  data_efficiency: TRAINING,
  curriculum_learning: TRAINING,
  compression_training: TRAINING,
  amp: STORED,
  steps_per_print: REPORTS,
  wall_clock_breakdown: REPORTS,
  dump_state: REPORTS,
  memory_breakdown: REPORTS,
  flops_profiler: REPORTS,
  tensorboard: REPORTS,
  wandb: REPORTS,
  csv_monitor: REPORTS,
  comms_logger: REPORTS,
  bf16: STORED,
  fp16: SCALING,
  inference: DEVICE,
  kernel_inject: DEVICE,
  replace_with_kernel_inject: DEVICE,
  injection_policy: 'how devices share a model is known of its architecture',
  enable_cuda_graph: 'steps on a GPU are graphs wherever they can be',
  use_triton: DEVICE,
  triton_autotune: DEVICE,
  dtype: STORED,
  quant: `${STORED}, so give --dtype int8 or pack the checkpoint`,
  max_out_tokens: 'give --max_new_tokens',
  max_tokens: 'give --max_new_tokens',
  'tensor_parallel.mpu': 'one process has all GPUs',
  'tensor_parallel.tp_group': 'one process has all GPUs',
  weight_quantization: `${STORED}, so quantize the checkpoint itself`,
  'aio.single_submit': RING,
  'aio.overlap_events': `${RING}, and reads always overlap`,
  'aio.use_gds': 'reads go to host memory first',
  'zero_optimization.offload_param.pin_memory':
    'stream buffers are always locked for the drive where the system allows it',
  'zero_optimization.offload_optimizer': TRAINING,
  'zero_optimization.overlap_comm': 'hops and compute always overlap',
  'zero_optimization.contiguous_gradients': TRAINING,
  'zero_optimization.reduce_scatter': TRAINING,
  'zero_optimization.reduce_bucket_size': TRAINING,
  'zero_optimization.allgather_partitions': STREAMED,
  'zero_optimization.allgather_bucket_size': STREAMED,
  'zero_optimization.round_robin_gradients': TRAINING,
  'zero_optimization.sub_group_size': TRAINING,
  'zero_optimization.ignore_unused_parameters': TRAINING,
  'zero_optimization.elastic_checkpoint': TRAINING,
  'zero_optimization.load_from_fp32_weights': STORED,
  'zero_optimization.cpu_offload': 'write offload_param.device "cpu"',
  'zero_optimization.cpu_offload_params': 'write offload_param.device "cpu"',
  'zero_optimization.stage3_max_live_parameters': `${STREAMED}, and --dram_memory bounds what is held`,
  'zero_optimization.stage3_max_reuse_distance': STREAMED,
  'zero_optimization.stage3_param_persistence_threshold':
    'small weights travel with their layer, and norms of embedding and head always stay',
  'zero_optimization.stage3_model_persistence_threshold': STREAMED,
  'zero_optimization.stage3_gather_16bit_weights_on_model_save': TRAINING,
  'zero_optimization.stage3_gather_fp16_weights_on_model_save': TRAINING,
  'zero_optimization.stage3_module_granularity_threshold': STREAMED,
  'zero_optimization.zero_hpz_partition_size': STREAMED,
  'zero_optimization.zero_quantized_weights': STORED,
  'zero_optimization.zero_quantized_gradients': TRAINING,
  'zero_optimization.zero_quantized_nontrainable_weights': STORED,
  'zero_optimization.memory_efficient_linear': TRAINING,
};
