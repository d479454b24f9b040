"""Random configurations of latent attention, and of keys wider than values, for random_configs.py."""

from mixture_families import base, deepseek_router


def latent(d, low=True, interleave=True):
    config = base(d, None, ("default",))
    heads = config["num_attention_heads"]
    del config["head_dim"]
    rope = d.one(4, 8, 6)
    sizes = {
        "num_key_value_heads": heads, "q_lora_rank": d.between(5, 30), "kv_lora_rank": d.one(8, 13, 32),
        "qk_nope_head_dim": d.one(5, 8, 16, 24), "qk_rope_head_dim": rope, "v_head_dim": d.one(7, 8, 16),
        "attention_bias": d.chance(0.3), "hidden_act": "silu",
        "rope_parameters": rotations(d, rope),
    }
    if low and d.chance(0.4):
        sizes["q_lora_rank"] = None
    if interleave:
        sizes["rope_interleave"] = d.chance(0.7)
    return {**config, **sizes}


def rotations(d, rope):
    if d.chance(0.5):
        return {"rope_type": "default", "rope_theta": d.one(10000.0, 500.0)}
    scaled = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": d.one(2.0, 4.0, 40.0), "beta_fast": 32.0,
              "beta_slow": 1.0, "original_max_position_embeddings": d.one(16, 32)}
    return {**scaled, **d.one({}, {"mscale": 1.0, "mscale_all_dim": 1.0}, {"mscale": 0.7, "mscale_all_dim": 0.7})}


def deepseek_v2(d):
    groups = d.one(1, 2)
    number = groups * d.between(2, 4)
    kept = d.between(1, groups)
    return {**latent(d, interleave=False), "n_routed_experts": number, "n_group": groups, "topk_group": kept,
            "num_experts_per_tok": d.between(1, kept * (number // groups)), "norm_topk_prob": False,
            "topk_method": d.one("greedy", "group_limited_greedy"), "routed_scaling_factor": d.one(1.0, 16.0),
            "n_shared_experts": d.between(1, 2), "first_k_dense_replace": d.between(0, 2),
            "moe_intermediate_size": d.between(9, 40)}


def deepseek_v3(d):
    return {**latent(d), **deepseek_router(d)}


def glm4_moe_lite(d):
    config = {**latent(d), **deepseek_router(d)}
    del config["first_k_dense_replace"]
    return {**config, "mlp_layer_types": [d.one("dense", "sparse") for _ in range(config["num_hidden_layers"])]}


def indexed(d):
    return {**latent(d, False, False), **deepseek_router(d), "index_topk": 128, "index_n_heads": 32, "index_head_dim": 16}


def deepseek_v32(d):
    return indexed(d)


def glm_moe_dsa(d):
    return indexed(d)


def mimo_v2_flash(d):
    config = {**base(d, None, ("default",)), **deepseek_router(d)}
    heads = 2 * config["num_attention_heads"]
    count = config["num_hidden_layers"]
    part = {"rope_type": "default", "partial_rotary_factor": d.one(0.5, 0.334)}
    del config["n_shared_experts"], config["first_k_dense_replace"]
    return {**config, "num_attention_heads": heads, "num_key_value_heads": d.one(1, heads // 2), "head_dim": d.one(12, 24),
            "v_head_dim": d.one(5, 8, 32), "hidden_act": "silu", "sliding_window": d.one(5, 16),
            "attention_value_scale": d.one(None, 0.707, 1.5),
            "layer_types": [d.one("full_attention", "sliding_attention") for _ in range(count)],
            "mlp_layer_types": [d.one("dense", "sparse") for _ in range(count)],
            "rope_parameters": {"full_attention": {**part, "rope_theta": 5e6}, "sliding_attention": {**part, "rope_theta": 1e4}}}


FAMILIES = {function.__name__: function for function in (
    deepseek_v2, deepseek_v3, glm4_moe_lite, deepseek_v32, glm_moe_dsa, mimo_v2_flash)}
