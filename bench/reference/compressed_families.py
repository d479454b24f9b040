"""Random configurations of DeepSeek-V4, for random_configs.py."""

SLIDING, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
RATIOS = {SLIDING: 0, SPARSE: 4, HEAVY: 128}
KEPT = ("q_lora_rank", "o_lora_rank", "o_groups", "index_n_heads", "index_head_dim", "index_topk", "compress_rates", "hc_mult",
        "partial_rotary_factor", "qk_rope_head_dim", "sliding_window")


def deepseek_v4(d):
    layers = d.between(1, 5)
    heads, dims = d.one(1, 2, 3, 4, 6, 8), d.one(8, 16, 20, 32)
    groups = d.one(*[n for n in range(1, 9) if heads * dims % n == 0])
    turned = d.one(*[n for n in (2, 4, 8, 16) if n <= dims])
    number = d.between(2, 7)
    rates = {SPARSE: 4, HEAVY: 128} if d.chance(0.3) else {SPARSE: d.one(1, 2, 3, 4), HEAVY: d.one(1, 5, 8, 16)}
    # As few as an index may choose without leaving any out of the longest sequence, of 60 tokens.
    chosen = -(-61 // rates[SPARSE]) - 1
    main = {"rope_type": "default", "rope_theta": d.one(10000.0, 500.0), "partial_rotary_factor": turned / dims}
    compress = {**main, "rope_theta": d.one(160000.0, 1000.0)}
    if d.chance(0.4):
        compress |= {"rope_type": "yarn", "factor": d.one(2.0, 16.0), "beta_fast": 32.0, "beta_slow": 1.0,
                     "original_max_position_embeddings": d.one(16, 32),
                     **d.one({}, {"attention_factor": 1.0}, {"attention_factor": 1.2})}
    elif d.chance(0.2):
        compress |= {"rope_type": "linear", "factor": 2.0}
    return {
        "hidden_size": d.one(16, 24, 40), "num_hidden_layers": layers, "num_attention_heads": heads, "head_dim": dims,
        "num_key_value_heads": 1, "q_lora_rank": d.between(5, 30), "o_lora_rank": d.between(3, 20), "o_groups": groups,
        "partial_rotary_factor": turned / dims, "moe_intermediate_size": d.between(9, 40), "n_routed_experts": number,
        "num_experts_per_tok": d.between(1, number), "n_shared_experts": 1, "routed_scaling_factor": d.one(1.0, 1.5, 2.5),
        "scoring_func": d.one("sqrtsoftplus", "sqrtsoftplus", "sigmoid"), "norm_topk_prob": True,
        "layer_types": [d.one(SLIDING, SPARSE, HEAVY) for _ in range(layers)],
        "mlp_layer_types": [d.one("hash_moe", "moe") for _ in range(layers)] if d.chance(0.5)
        else ["hash_moe" if i < 2 else "moe" for i in range(layers)],
        "compress_rates": rates,
        "hc_mult": d.one(1, 2, 3, 4, 4), "hc_sinkhorn_iters": d.one(1, 2, 20), "hc_eps": d.one(1e-6, 1e-3),
        "swiglu_limit": d.one(10.0, 0.5, 1.0), "sliding_window": d.one(1, 5, 8, 16, 128), "index_topk": d.one(chosen, 512),
        "index_n_heads": 32, "index_head_dim": d.one(16, 32), "hidden_act": d.activation("silu"), "rms_norm_eps": d.eps(),
        "max_position_embeddings": 128, "tie_word_embeddings": d.chance(0.3),
        "rope_parameters": {"main": main, "compress": compress},
    }


def spell(written, draw):
    """As published, where that can say it: ratios of layers, a count of layers that choose by tokens, one set of rotations."""
    rates = written.get("compress_rates") or {}
    if draw.chance(0.5) and rates == {SPARSE: 4, HEAVY: 128} and "layer_types" in written:
        written["compress_ratios"] = [RATIOS[kind] for kind in written.pop("layer_types")]
        del written["compress_rates"]
    elif draw.chance(0.3) and rates:
        written["compress_rate_csa"], written["compress_rate_hca"] = rates[SPARSE], rates[HEAVY]
        del written["compress_rates"]
    kinds = written.get("mlp_layer_types")
    if kinds and draw.chance(0.5) and kinds == sorted(kinds):
        written["num_hash_layers"] = written.pop("mlp_layer_types").count("hash_moe")
    rope = written.get("rope_parameters")
    if rope and draw.chance(0.5):
        del written["rope_parameters"]
        compress = dict(rope["compress"])
        written["rope_theta"], written["compress_rope_theta"] = rope["main"]["rope_theta"], compress.pop("rope_theta")
        compress.pop("partial_rotary_factor")
        kind = compress.pop("rope_type")
        if kind != "default":
            written["rope_scaling"] = {draw.one("rope_type", "type"): kind, **compress}
    if draw.chance(0.5):
        written.pop("partial_rotary_factor", None)
    else:
        written.pop("qk_rope_head_dim", None)


FAMILIES = {"deepseek_v4": deepseek_v4}
