"""Random configurations of dense families since Llama; random_configs.py draws them with its own.

A family's function takes what values are drawn from and gives the configuration. To add families, write another file like
this one and list its FAMILIES in random_configs.py.
"""


def llama_like(d, rope=True):
    heads, kv = d.heads()
    dims = d.one(4, 8, 12, 16)
    config = {
        "hidden_size": heads * d.one(dims, 7, 10),
        "intermediate_size": d.between(17, 90), "num_hidden_layers": d.between(1, 5), "num_attention_heads": heads,
        "num_key_value_heads": kv, "head_dim": dims, "hidden_act": d.activation("silu"), "rms_norm_eps": d.eps(),
        "tie_word_embeddings": d.chance(0.4), "max_position_embeddings": 128,
    }
    if rope:
        config["rope_parameters"] = d.rope(dims)
    return config


def without_head_dim(d, config, partial=None):
    """For families that know no other than hidden_size over the number of heads."""
    config.pop("head_dim")
    dims = d.one(4, 8, 12)
    config["hidden_size"] = config["num_attention_heads"] * dims
    config["rope_parameters"] = d.rope(int(dims * (partial or 1)), partial)
    return config


def ropes_by_type(d, dims):
    """One per kind of layer; only the full ones may be scaled as version 4 could say it."""
    scaled = d.rope(dims, kinds=("default", "linear", "yarn", "llama3"))
    return {"full_attention": scaled, "sliding_attention": {"rope_type": "default", "rope_theta": d.one(10000.0, 700.0)}}


def gemma(d):
    return {**llama_like(d), "hidden_act": d.activation("gelu_pytorch_tanh"), "attention_bias": d.chance(0.3),
            "tie_word_embeddings": d.chance(0.7)}


def gemma3_text(d):
    config = llama_like(d, rope=False)
    config["hidden_activation"] = config.pop("hidden_act") if d.chance(0.3) else "gelu_pytorch_tanh"
    config["hidden_size"] = config["num_attention_heads"] * d.one(8, 10)
    config |= {"query_pre_attn_scalar": d.one(8, 24, 256), "sliding_window": d.one(7, 16), "attention_bias": d.chance(0.3),
               "attn_logit_softcapping": d.one(None, None, 2.0), "final_logit_softcapping": d.one(None, None, 5.0),
               "rope_parameters": ropes_by_type(d, config["head_dim"])}
    if d.chance(0.5):
        config["layer_types"] = d.layer_types(config["num_hidden_layers"])
    else:
        config["sliding_window_pattern"] = d.one(1, 2, 3, 6)
    return config


def gemma4_text(d):
    heads = d.one(1, 2, 3, 4, 6)
    kv = d.one(*[n for n in range(1, heads + 1) if heads % n == 0])
    layers = d.between(2, 6)
    types = d.layer_types(layers - 1) + ["full_attention"]
    shared = d.one(0, 0, d.between(0, layers - 1))
    while shared and not set(types[layers - shared:]) <= set(types[: layers - shared]):
        shared -= 1
    config = {
        "hidden_size": d.one(24, 40), "intermediate_size": d.between(17, 90), "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": d.one(4, 8, 12), "rms_norm_eps": d.eps(),
        "hidden_activation": d.activation("gelu_pytorch_tanh"), "max_position_embeddings": 128, "layer_types": types,
        "attention_k_eq_v": d.chance(0.5), "global_head_dim": d.one(8, 16, 20), "num_kv_shared_layers": shared,
        "num_global_key_value_heads": d.one(None, 1), "use_double_wide_mlp": d.chance(0.5),
        "attention_bias": d.chance(0.3), "sliding_window": d.one(7, 16), "tie_word_embeddings": d.chance(0.7),
        "hidden_size_per_layer_input": d.one(0, 0, 5, 8), "vocab_size_per_layer_input": 120,
        "final_logit_softcapping": d.one(None, 5.0, 30.0),
    }
    if d.chance(0.4):
        experts = d.between(2, 6)
        config |= {"enable_moe_block": True, "num_experts": experts, "top_k_experts": d.between(1, experts),
                   "moe_intermediate_size": d.between(9, 40)}
    if d.chance(0.5):
        config["rope_parameters"] = {
            "full_attention": {"rope_type": "proportional", "rope_theta": d.one(1e6, 500.0),
                               "partial_rotary_factor": d.one(0.25, 0.5, 1.0)},
            "sliding_attention": {"rope_type": "default", "rope_theta": d.one(10000.0, 700.0)},
        }
    return config


def glm(d):
    config = llama_like(d, rope=False)
    config["head_dim"] = d.one(8, 16)
    part = d.one(0.5, 0.25, 1.0)
    return {**config, "attention_bias": d.chance(0.7),
            "rope_parameters": d.rope(int(config["head_dim"] * part), part, ("default", "default", "linear", "yarn"))}


def glm4(d):
    return glm(d)


def cohere(d):
    return {**without_head_dim(d, llama_like(d)), "layer_norm_eps": d.eps(), "attention_bias": d.chance(0.3),
            "use_qk_norm": d.chance(0.5), "logit_scale": d.one(0.0625, 0.7), "tie_word_embeddings": d.chance(0.7)}


def cohere2(d):
    config = {**without_head_dim(d, llama_like(d)), "layer_norm_eps": d.eps(), "attention_bias": d.chance(0.3),
              "logit_scale": d.one(0.0625, 0.7), "sliding_window": d.one(7, 16)}
    if d.chance(0.5):
        config["layer_types"] = d.layer_types(config["num_hidden_layers"])
    else:
        config["sliding_window_pattern"] = d.one(2, 3, 4)
    return config


def olmo2(d):
    return {**without_head_dim(d, llama_like(d)), "attention_bias": d.chance(0.3)}


def olmo3(d):
    config = without_head_dim(d, llama_like(d))
    config["rope_parameters"] = ropes_by_type(d, config["hidden_size"] // config["num_attention_heads"])
    if d.chance(0.5):
        config["layer_types"] = d.layer_types(config["num_hidden_layers"])
    return {**config, "attention_bias": d.chance(0.3), "sliding_window": d.one(7, 16)}


def granite(d):
    return {**without_head_dim(d, llama_like(d)), "attention_bias": d.chance(0.3), "mlp_bias": d.chance(0.3),
            "embedding_multiplier": d.one(1.0, 12.0), "residual_multiplier": d.one(1.0, 0.22, 1.5),
            "attention_multiplier": d.one(1.0, 0.0156, 0.3), "logits_scaling": d.one(1.0, 8, 0.5)}


def smollm3(d):
    config = without_head_dim(d, llama_like(d))
    layers = config["num_hidden_layers"]
    if d.chance(0.5):
        config["no_rope_layers"] = [d.one(0, 1) for _ in range(layers)]
    else:
        config["no_rope_layer_interval"] = d.one(1, 2, 3, 4)
    if d.chance(0.4):
        config |= {"use_sliding_window": True, "sliding_window": d.one(7, 16)}
        if d.chance(0.4):
            config["layer_types"] = d.layer_types(layers)
    return {**config, "attention_bias": d.chance(0.3), "mlp_bias": d.chance(0.3)}


def seed_oss(d):
    return {**llama_like(d), "attention_bias": d.chance(0.7), "attention_out_bias": d.chance(0.3), "mlp_bias": d.chance(0.3)}


def ministral3(d):
    config = llama_like(d, rope=False)
    rope = d.rope(config["head_dim"], kinds=("yarn", "yarn", "llama3"))
    if d.chance(0.7):
        rope |= {"mscale": 1.0, "mscale_all_dim": 1.0}
    rope |= {"llama_4_scaling_beta": d.one(0.1, 0.7), "original_max_position_embeddings": d.one(8, 16, 48)}
    return {**config, "rope_parameters": rope, "sliding_window": d.one(None, None, 7, 16)}


def phi(d):
    part = d.one(0.5, 0.25, 1.0)
    heads, kv = d.heads()
    dims = d.one(8, 16)
    return {
        "hidden_size": heads * dims, "num_attention_heads": heads, "num_key_value_heads": kv,
        "intermediate_size": d.between(17, 90), "num_hidden_layers": d.between(1, 4), "hidden_act": d.activation("gelu_new"),
        "layer_norm_eps": d.eps(), "max_position_embeddings": 128, "qk_layernorm": d.chance(0.4),
        "tie_word_embeddings": d.chance(0.3),
        "rope_parameters": d.rope(int(dims * part), part, ("default", "default", "linear", "dynamic", "yarn")),
    }


def mpt(d):
    heads, _ = d.heads()
    attention = {"clip_qkv": d.one(None, None, 1.0, 6), "softmax_scale": d.one(None, None, 0.2),
                 "alibi_bias_max": d.one(8, 8, 8, 4), "attn_impl": d.one("torch", "triton"), "qk_ln": False}
    return {
        "d_model": heads * d.one(4, 8, 13), "n_heads": heads, "n_layers": d.between(1, 4), "max_seq_len": 128,
        "layer_norm_epsilon": d.eps(), "attn_config": attention, "no_bias": True,
        "norm_type": d.one("low_precision_layernorm", "layernorm"), "tie_word_embeddings": d.chance(0.8),
    }


def gpt_bigcode(d):
    heads, _ = d.heads()
    return {
        "n_embd": heads * d.one(4, 8, 13), "n_head": heads, "n_layer": d.between(1, 4), "n_positions": 128,
        "n_inner": d.one(None, d.between(17, 90)), "activation_function": d.activation("gelu_pytorch_tanh"),
        "layer_norm_epsilon": d.eps(), "scale_attn_weights": d.chance(0.8), "multi_query": d.chance(0.6),
        "attention_softmax_in_fp32": d.chance(0.7), "scale_attention_softmax_in_fp32": d.chance(0.7),
        "tie_word_embeddings": d.chance(0.7),
    }


def nemotron(d):
    config = llama_like(d, rope=False)
    config["head_dim"] = d.one(8, 16)
    part = d.one(0.5, 0.25, 1.0)
    config.pop("rms_norm_eps")
    return {**config, "hidden_act": d.activation("relu2"), "norm_eps": d.eps(), "attention_bias": d.chance(0.3),
            "mlp_bias": d.chance(0.3),
            "rope_parameters": d.rope(int(config["head_dim"] * part), part, ("default", "default", "linear", "yarn"))}


def hunyuan_v1_dense(d):
    config = llama_like(d)
    if d.chance(0.5):
        config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0,
                                     "alpha": d.one(1000.0, 4.0)}
    return {**config, "attention_bias": d.chance(0.3)}


def exaone4(d):
    config = without_head_dim(d, llama_like(d))
    config["sliding_window"] = d.one(None, 7, 16)
    if d.chance(0.4) and config["sliding_window"]:
        config["layer_types"] = d.layer_types(config["num_hidden_layers"])
    elif config["sliding_window"]:
        config["sliding_window_pattern"] = d.one(1, 2, 4)
    else:
        config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    return config


FAMILIES = {function.__name__: function for function in (
    cohere, cohere2, exaone4, gemma, gemma3_text, gemma4_text, glm, glm4, gpt_bigcode, granite, hunyuan_v1_dense, ministral3, mpt,
    nemotron, olmo2, olmo3, phi, seed_oss, smollm3)}
