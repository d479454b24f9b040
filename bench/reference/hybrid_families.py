"""Random configurations of families whose layers keep a state per sequence, for random_configs.py."""


def delta(d):
    """Qwen3.5's text part without a feed-forward: linear layers and gated attention."""
    heads, kv = d.heads()
    dims = d.one(8, 16, 32)
    keys = d.one(1, 2, 3)
    layers = d.between(1, 5)
    partial = d.one(None, 0.25, 0.5, 1.0)
    config = {
        "hidden_size": d.one(16, 24, 40), "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "head_dim": dims, "hidden_act": "silu", "rms_norm_eps": d.eps(),
        "attention_bias": d.chance(0.2), "tie_word_embeddings": d.chance(0.4), "max_position_embeddings": 128,
        "linear_num_key_heads": keys, "linear_num_value_heads": keys * d.one(1, 2, 3),
        "linear_key_head_dim": d.one(4, 8, 12, 33), "linear_value_head_dim": d.one(4, 8, 20),
        "linear_conv_kernel_dim": d.one(2, 3, 4, 4, 6),
        "rope_parameters": d.rope(int(dims * (partial or 0.25)), partial, ("default", "default", "linear", "yarn")),
    }
    if d.chance(0.6):
        config["layer_types"] = [d.one("linear_attention", "full_attention") for _ in range(layers)]
    elif d.chance(0.5):
        config["full_attention_interval"] = d.one(1, 2, 3, 4)
    return config


def mixture(d, config):
    experts = d.between(2, 7)
    return {**config, "num_experts": experts, "num_experts_per_tok": d.between(1, experts),
            "moe_intermediate_size": d.between(9, 40), "shared_expert_intermediate_size": d.between(9, 40)}


def qwen3_5_text(d):
    return {**delta(d), "intermediate_size": d.between(17, 90)}


def qwen3_5_moe_text(d):
    return mixture(d, delta(d))


def qwen3_next(d):
    config = mixture(d, delta(d))
    layers = config["num_hidden_layers"]
    return {**config, "intermediate_size": d.between(17, 90), "norm_topk_prob": d.chance(0.6),
            "decoder_sparse_step": d.one(1, 1, 2), "mlp_only_layers": [i for i in range(layers) if d.chance(0.2)]}


def nemotron_h(d):
    heads, kv = d.heads()
    groups = d.one(1, 2, 3)
    experts = d.one(4, 6, 8)
    expert_groups = d.one(1, 1, 2)
    kinds = [d.one("linear_attention", "moe", "full_attention", "mlp") for _ in range(d.between(1, 6))]
    config = {
        "hidden_size": d.one(16, 24, 40), "num_attention_heads": heads, "num_key_value_heads": kv,
        "head_dim": d.one(4, 8, 16), "intermediate_size": d.between(17, 60), "mlp_hidden_act": d.one("relu2", "relu2", "silu"),
        "mlp_bias": d.chance(0.2), "use_bias": d.chance(0.2), "use_conv_bias": d.chance(0.7),
        "layer_norm_epsilon": d.eps(), "tie_word_embeddings": d.chance(0.3), "max_position_embeddings": 128,
        "mamba_num_heads": groups * d.one(1, 2, 3), "mamba_head_dim": d.one(4, 8, 12), "n_groups": groups,
        "ssm_state_size": d.one(4, 8, 20), "conv_kernel": d.one(2, 4, 4, 5), "chunk_size": d.one(4, 8, 16),
        "n_routed_experts": experts, "num_experts_per_tok": d.between(1, 2), "moe_intermediate_size": d.between(9, 40),
        "moe_shared_expert_intermediate_size": d.between(9, 40), "n_group": expert_groups, "topk_group": d.between(1, expert_groups),
        "norm_topk_prob": d.chance(0.7), "routed_scaling_factor": d.one(1.0, 2.5),
        "moe_latent_size": d.one(None, None, 12), "layers_block_type": kinds,
    }
    return config


def granitemoehybrid(d):
    heads, kv = d.heads()
    hidden = heads * d.one(4, 8)
    mamba_heads = d.one(*[n for n in range(1, 9) if (2 * hidden) % n == 0])
    groups = d.one(*[n for n in range(1, mamba_heads + 1) if mamba_heads % n == 0])
    layers = d.between(1, 5)
    experts = d.one(0, 0, 2, 5)
    limits = d.one(None, None, [0.05, 1.5], [0.0, 2.0])
    config = {
        "hidden_size": hidden, "intermediate_size": d.between(9, 40), "shared_intermediate_size": d.between(9, 60),
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "hidden_act": "silu",
        "rms_norm_eps": d.eps(), "tie_word_embeddings": d.chance(0.4), "max_position_embeddings": 128,
        "attention_bias": d.chance(0.2), "embedding_multiplier": d.one(1.0, 6.0), "logits_scaling": d.one(1.0, 4.0),
        "residual_multiplier": d.one(1.0, 0.3), "attention_multiplier": d.one(1.0, 0.25),
        "num_local_experts": experts, "num_experts_per_tok": d.between(1, experts) if experts else 0,
        "position_embedding_type": d.one(None, "rope", "nope"), "mamba_n_heads": mamba_heads, "mamba_n_groups": groups,
        "mamba_d_state": d.one(4, 8, 20), "mamba_d_head": d.one("auto", 2 * hidden // mamba_heads), "mamba_d_conv": d.one(2, 4, 4),
        "mamba_expand": 2, "mamba_chunk_size": d.one(4, 16), "mamba_conv_bias": d.chance(0.7), "mamba_proj_bias": d.chance(0.3),
        "layer_types": [d.one("mamba", "attention") for _ in range(layers)],
    }
    if limits is not None:
        config["time_step_limit"] = limits
    if d.chance(0.5):
        config["rope_parameters"] = d.rope(hidden // heads, None, ("default", "linear", "yarn"))
    return config


FAMILIES = (qwen3_5_text, qwen3_5_moe_text, qwen3_next, nemotron_h, granitemoehybrid)
# Names of sizes, without which the reference means another model.
KEPT = {
    "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim",
    "linear_conv_kernel_dim", "full_attention_interval", "shared_expert_intermediate_size", "mamba_num_heads", "mamba_head_dim",
    "n_groups", "ssm_state_size", "conv_kernel", "layers_block_type", "n_routed_experts", "num_experts_per_tok",
    "moe_shared_expert_intermediate_size", "moe_latent_size", "shared_intermediate_size", "mamba_n_heads",
    "mamba_n_groups", "mamba_d_state", "mamba_d_head", "mamba_d_conv", "mamba_expand", "mamba_conv_bias", "use_conv_bias",
    "chunk_size", "mamba_chunk_size",
}
