// Tensors beside weights that concern activations or the cache of keys and values: a weight means the same without them.

const IGNORED =
  /[._](input_scale|input_scale_ub|input_global_scale|input_zero_point|activation_scale|output_scale|output_zero_point|[kqv]_scale|kv_scale|prob_scale|[kv]_zero_point|weight_format|weight_shape)$/;

export function isIgnored(name: string): boolean {
  return IGNORED.test(name);
}
