"""Random configurations of mixtures of experts, for random_configs.py."""


def experts(d, count="num_experts", chosen="num_experts_per_tok"):
    number = d.between(2, 7)
    return {count: number, chosen: d.between(1, number), "moe_intermediate_size": d.between(9, 40)}


def deepseek_router(d):
    groups = d.one(1, 1, 2, 3)
    number = groups * d.between(2, 4)
    kept = d.between(1, groups)
    return {
        "n_routed_experts": number, "num_experts_per_tok": d.between(1, kept * (number // groups)), "n_group": groups,
        "topk_group": kept, "norm_topk_prob": d.chance(0.6), "routed_scaling_factor": d.one(1.0, 2.5, 0.7),
        "n_shared_experts": d.between(1, 2), "first_k_dense_replace": d.between(0, 2),
        "moe_intermediate_size": d.between(9, 40),
    }


def base(d, partial=None, kinds=("default", "default", "linear", "dynamic", "yarn", "llama3")):
    heads, kv = d.heads()
    dims = d.one(8, 12, 16)
    return {
        "hidden_size": heads * d.one(dims, 7, 10), "intermediate_size": d.between(17, 90),
        "num_hidden_layers": d.between(1, 4), "num_attention_heads": heads, "num_key_value_heads": kv,
        "head_dim": dims, "hidden_act": d.activation("silu"), "rms_norm_eps": d.eps(),
        "tie_word_embeddings": d.chance(0.4), "max_position_embeddings": 128,
        "rope_parameters": d.rope(int(dims * (partial or 1)), partial, kinds),
    }


def without_head_dim(d, config):
    """For families that know no other size of a head."""
    dims = config.pop("head_dim")
    return {**config, "hidden_size": config["num_attention_heads"] * dims}


def qwen2_moe(d):
    config = without_head_dim(d, base(d))
    layers = config["num_hidden_layers"]
    return {**config, **experts(d), "shared_expert_intermediate_size": d.between(9, 40),
            "norm_topk_prob": d.chance(0.5), "decoder_sparse_step": d.one(1, 1, 2), "qkv_bias": d.chance(0.7),
            "mlp_only_layers": [i for i in range(layers) if d.chance(0.2)], "use_sliding_window": d.chance(0.3),
            "sliding_window": d.one(7, 16), "max_window_layers": d.between(0, 4)}


def glm4_moe(d):
    partial = d.one(0.5, 1.0)
    return {**base(d, partial), **deepseek_router(d), "attention_bias": d.chance(0.5), "use_qk_norm": d.chance(0.5)}


def dots1(d):
    return {**base(d), **deepseek_router(d), "attention_bias": d.chance(0.3), "max_window_layers": d.between(0, 4),
            "sliding_window": d.one(None, 7, 16)}


def minimax_m2(d):
    partial = d.one(0.5, 1.0)
    config = base(d, partial)
    return {**config, **experts(d, "num_local_experts"), "rotary_dim": int(config["head_dim"] * partial)}


def hy_v3(d):
    config = base(d)
    kinds = [d.one("dense", "sparse", "sparse") for _ in range(config["num_hidden_layers"])]
    return {**config, **experts(d), "num_shared_experts": d.between(1, 2), "mlp_bias": d.chance(0.3),
            "attention_bias": d.chance(0.3), "router_scaling_factor": d.one(1.0, 2.826),
            **({"mlp_layer_types": kinds} if d.chance(0.6) else {})}


def hunyuan_v1_moe(d):
    config = base(d)
    number = d.between(2, 6)
    chosen = d.between(1, number)
    return {**config, "num_experts": number, "attention_bias": d.chance(0.3),
            "moe_topk": d.one(chosen, [chosen] * config["num_hidden_layers"])}


def ernie4_5_moe(d):
    config = without_head_dim(d, base(d, None, ("default", "linear", "yarn", "llama3")))
    number = d.between(2, 7)
    return {**config, "moe_num_experts": number, "moe_k": d.between(1, number), "moe_num_shared_experts": d.between(0, 2),
            "moe_intermediate_size": d.between(9, 40), "use_bias": d.chance(0.3), "moe_layer_interval": d.one(1, 1, 2),
            "moe_layer_start_index": d.between(0, 2), "moe_layer_end_index": d.one(-1, 2, 3)}


def ernie4_5(d):
    return {**base(d, None, ("default", "linear", "yarn", "llama3")), "use_bias": d.chance(0.3)}


def olmoe(d):
    config = without_head_dim(d, base(d))
    number = d.between(2, 7)
    return {**config, "num_experts": number, "num_experts_per_tok": d.between(1, number),
            "norm_topk_prob": d.chance(0.5), "attention_bias": d.chance(0.3)}


def granitemoe(d):
    config = without_head_dim(d, base(d))
    number = d.between(2, 7)
    return {**config, "num_local_experts": number, "num_experts_per_tok": d.between(1, number),
            "embedding_multiplier": d.one(1.0, 6.0), "residual_multiplier": d.one(1.0, 0.4),
            "attention_multiplier": d.one(0.1, 0.25), "logits_scaling": d.one(1.0, 4.0), "attention_bias": d.chance(0.3)}


def phimoe(d):
    config = without_head_dim(d, base(d, None, ("default",)))
    return {**config, "num_local_experts": d.between(2, 7), "num_experts_per_tok": 2, "attention_bias": d.chance(0.5),
            "lm_head_bias": d.chance(0.5), "router_jitter_noise": d.one(0.01, 0.2), "sliding_window": d.one(None, 7, 16)}


def llama4_text(d):
    config = base(d, None, ("default", "default", "llama3"))
    layers = config["num_hidden_layers"]
    number = d.between(1, 5)
    listed = [i for i in range(layers) if d.chance(0.6)]
    return {**config, "intermediate_size_mlp": d.between(17, 60), "num_local_experts": number,
            "num_experts_per_tok": d.between(1, number), "use_qk_norm": d.chance(0.5), "attention_bias": d.chance(0.3),
            "attention_chunk_size": d.one(5, 16, 64), "no_rope_layer_interval": d.one(2, 3, 4),
            "floor_scale": d.one(8, 20, 8192), "attn_scale": d.one(0.1, 0.4), "attn_temperature_tuning": d.chance(0.7),
            **({"moe_layers": listed} if d.chance(0.4) else {"interleave_moe_layer_step": d.one(1, 2)})}


FAMILIES = {function.__name__: function for function in (
    qwen2_moe, glm4_moe, dots1, minimax_m2, hy_v3, hunyuan_v1_moe, ernie4_5_moe, ernie4_5, olmoe, granitemoe, phimoe, llama4_text)}
