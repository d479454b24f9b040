#!/usr/bin/env python3
"""Random configurations of every architecture, each a tiny checkpoint with what transformers makes of it.

    python random_configs.py OUTPUT_FOLDER [--count 300] [--seed 1] [--only llama,falcon] [--wrapped]
    node dist/bench/reference/compare-configs.js OUTPUT_FOLDER

Needs torch and transformers (5.x). Writes OUTPUT_FOLDER/FAMILY/NNN with config.json, weights and expected.json. The
configuration is what a publisher could have written: values are left out or null where the library has a default, and
spelt as version 4 did or as version 5 does; tensors have the names of published files, or those that version 5 gives
them in memory, where experts are fused. The reference loads that folder as a user would. Where it refuses,
expected.json says why, and nothing is compared.

expected.json: `ids`, sequences of token ids; `given`, how many of each are a prompt; `logits`, per sequence a row after
the prompt and after each further token, in float32 on the stored weights, each computed from the start without a cache.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import sys
import traceback

import compressed_families
import dense_families
import hybrid_families
import latent_families
import mixture_families
import wrapped
from quiet_reference import quiet_reference

PROMPT_LENGTHS = [1, 6, 23, 57]
FURTHER_TOKENS = 3
# Falcon's eager attention adds ALiBi twice.
ATTENTION = {"falcon": "sdpa"}
# Without these there is no model of this size, or the library itself cannot tell what is meant.
KEPT = {
    "model_type", "vocab_size", "architectures", "hidden_size", "n_embd", "n_embed", "num_hidden_layers", "n_layer",
    "num_layers", "num_attention_heads", "n_head", "num_heads", "intermediate_size", "ffn_dim", "head_dim",
    "num_key_value_heads", "num_local_experts", "num_experts", "moe_intermediate_size", "word_embed_proj_dim",
    "max_position_embeddings", "n_positions", "attention_types", "rotary_dim", "layer_types", "rope_parameters",
    "bos_token_id", "eos_token_id", "pad_token_id", "ffn_hidden_size", "n_inner", "d_model", "n_heads", "n_layers",
    "max_seq_len", "attn_config", "no_bias", "n_routed_experts", "n_shared_experts", "num_shared_experts",
    "moe_num_experts", "moe_num_shared_experts", "moe_k", "moe_topk", "num_experts_per_tok", "n_group", "topk_group",
    "shared_expert_intermediate_size", "mlp_layer_types", "first_k_dense_replace", *hybrid_families.KEPT, *compressed_families.KEPT,
    "global_head_dim", "per_layer_config", "hidden_size_per_layer_input", "vocab_size_per_layer_input",
    "num_kv_shared_layers", "attention_k_eq_v", "use_double_wide_mlp",
}
SUPPORTED = ["gelu", "gelu_new", "relu", "silu", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "swish", "gelu_python"]
ACTIVATIONS = SUPPORTED + ["relu2", "tanh", "mish", "sigmoid", "leaky_relu", "relu6", "gelu_10", "laplace"]


class Draw:
    """What a configuration is drawn from."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def one(self, *values):
        return self.random.choice(values)

    def chance(self, share):
        return self.random.random() < share

    def between(self, low, high):
        return self.random.randint(low, high)

    def real(self, low, high):
        return round(self.random.uniform(low, high), 3)

    def heads(self):
        heads = self.one(1, 2, 3, 4, 5, 6, 8)
        return heads, self.one(*[n for n in range(1, heads + 1) if heads % n == 0])

    def activation(self, usual):
        return usual if self.chance(0.6) else self.one(*(ACTIVATIONS if self.chance(0.2) else SUPPORTED))

    def eps(self):
        return self.one(1e-6, 1e-5, 1e-3, 1e-12)

    def layer_types(self, count):
        return [self.one("full_attention", "sliding_attention") for _ in range(count)]

    def rope(self, rotated, partial=None, kinds=("default", "default", "linear", "dynamic", "yarn", "llama3", "longrope")):
        theta = self.one(10000.0, 500.0, 1000000.0, 25000)
        kind = self.one(*kinds)
        parameters = {"rope_type": kind, "rope_theta": theta}
        if partial is not None:
            parameters["partial_rotary_factor"] = partial
        original = self.one(16, 32, 48)
        if kind in ("linear", "dynamic", "yarn", "llama3"):
            parameters["factor"] = self.one(1.0, 2.0, 4, 3.5)
        if kind in ("yarn", "llama3", "longrope") or (kind == "dynamic" and self.chance(0.5)):
            parameters["original_max_position_embeddings"] = original
        if kind == "yarn":
            for name, value in {"beta_fast": 24, "beta_slow": 2, "attention_factor": 1.2, "mscale": 0.7,
                                "mscale_all_dim": 0.5, "truncate": False}.items():
                if self.chance(0.3):
                    parameters[name] = value
        if kind == "llama3":
            parameters |= {"low_freq_factor": 1.0, "high_freq_factor": self.one(4.0, 2.0)}
        if kind == "longrope":
            parameters["short_factor"] = [self.real(1, 2) for _ in range(rotated // 2)]
            parameters["long_factor"] = [self.real(1, 8) for _ in range(rotated // 2)]
            if self.chance(0.3):
                parameters["factor"] = self.one(2.0, 4.0)
            if self.chance(0.3):
                parameters["attention_factor"] = 1.3
        return parameters


def bloom(d):
    heads, _ = d.heads()
    return {
        "hidden_size": heads * d.one(4, 8, 10, 13), "n_head": heads, "n_layer": d.between(1, 4),
        "layer_norm_epsilon": d.eps(), "apply_residual_connection_post_layernorm": d.chance(0.3),
        "pretraining_tp": d.one(1, 4), "slow_but_exact": d.chance(0.3), "tie_word_embeddings": d.chance(0.7),
    }


def falcon(d):
    heads, groups = d.heads()
    hidden = heads * d.one(4, 8, 12)
    new = d.chance(0.4)
    alibi = d.chance(0.35)
    config = {
        "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": d.between(1, 4),
        "new_decoder_architecture": new, "multi_query": d.chance(0.6), "parallel_attn": d.chance(0.7), "alibi": alibi,
        "bias": d.chance(0.4), "layer_norm_epsilon": d.eps(), "activation": d.activation("gelu"),
        "tie_word_embeddings": d.chance(0.7), "apply_residual_connection_post_layernorm": d.chance(0.1),
        "ffn_hidden_size": d.one(4 * hidden, d.between(17, 90)), "num_ln_in_parallel_attn": d.one(None, 1, 2),
        "max_position_embeddings": 128,
    }
    if new:
        config["num_kv_heads"] = groups
    if not alibi:
        config["rope_parameters"] = d.rope(hidden // heads)
    return config


def gpt2(d):
    heads, _ = d.heads()
    return {
        "n_embd": heads * d.one(4, 8, 13), "n_head": heads, "n_layer": d.between(1, 4), "n_positions": 128,
        "n_inner": d.one(None, d.between(17, 90)), "activation_function": d.activation("gelu_new"),
        "layer_norm_epsilon": d.eps(), "scale_attn_weights": d.chance(0.7),
        "scale_attn_by_inverse_layer_idx": d.chance(0.4), "reorder_and_upcast_attn": d.chance(0.3),
        "tie_word_embeddings": d.chance(0.7),
    }


def gpt_neo(d):
    heads, _ = d.heads()
    layers = d.between(1, 4)
    kinds = [d.one("global", "local") for _ in range(layers)]
    return {
        "hidden_size": heads * d.one(4, 8, 10), "num_heads": heads, "num_layers": layers,
        "attention_types": [[kinds, 1]], "intermediate_size": d.one(None, d.between(17, 90)),
        "window_size": d.one(1, 7, 16, 64), "activation_function": d.activation("gelu_new"),
        "layer_norm_epsilon": d.eps(), "max_position_embeddings": 128, "tie_word_embeddings": d.chance(0.7),
    }


def gpt_neox(d):
    heads, _ = d.heads()
    dims = d.one(8, 12, 16)
    partial = d.one(None, 0.25, 0.5, 1.0)
    return {
        "hidden_size": heads * dims, "num_attention_heads": heads, "num_hidden_layers": d.between(1, 4),
        "intermediate_size": d.between(17, 90), "hidden_act": d.activation("gelu"), "layer_norm_eps": d.eps(),
        "use_parallel_residual": d.chance(0.6), "attention_bias": d.chance(0.7), "max_position_embeddings": 128,
        "tie_word_embeddings": d.chance(0.3), "rope_parameters": d.rope(int(dims * (partial or 0.25)), partial),
    }


def gptj(d):
    heads = d.one(1, 2, 3, 4)
    dims = d.one(8, 12, 16)
    return {
        "n_embd": heads * dims, "n_head": heads, "n_layer": d.between(1, 4), "n_positions": 128,
        "n_inner": d.one(None, d.between(17, 90)), "rotary_dim": d.one(4, 8, dims),
        "activation_function": d.activation("gelu_new"), "layer_norm_epsilon": d.eps(),
        "tie_word_embeddings": d.chance(0.3),
    }


def opt(d):
    heads, _ = d.heads()
    hidden = heads * d.one(4, 8, 10)
    return {
        "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": d.between(1, 4),
        "ffn_dim": d.between(17, 90), "max_position_embeddings": 128, "do_layer_norm_before": d.chance(0.7),
        "word_embed_proj_dim": d.one(hidden, hidden, d.between(5, 40)), "activation_function": d.activation("relu"),
        "enable_bias": d.chance(0.7), "layer_norm_elementwise_affine": d.chance(0.8),
        "_remove_final_layer_norm": d.chance(0.2), "tie_word_embeddings": d.chance(0.7),
    }


def llama_like(d, rope=True):
    heads, kv = d.heads()
    dims = d.one(4, 8, 12, 16)
    config = {
        "hidden_size": heads * d.one(dims, 7, 10),
        "intermediate_size": d.between(17, 90), "num_hidden_layers": d.between(1, 4), "num_attention_heads": heads,
        "num_key_value_heads": kv, "head_dim": dims, "hidden_act": d.activation("silu"), "rms_norm_eps": d.eps(),
        "tie_word_embeddings": d.chance(0.4), "max_position_embeddings": 128,
    }
    if rope:
        config["rope_parameters"] = d.rope(dims)
    return config


def llama(d):
    return {**llama_like(d), "attention_bias": d.chance(0.3), "mlp_bias": d.chance(0.3),
            "pretraining_tp": d.one(1, 2)}


def mistral(d):
    return {**llama_like(d), "sliding_window": d.one(None, 1, 5, 16, 64)}


def mixtral(d):
    experts = d.between(2, 6)
    return {**llama_like(d), "sliding_window": d.one(None, 7, 16), "num_local_experts": experts,
            "num_experts_per_tok": d.between(1, experts), "router_jitter_noise": d.one(0.0, 0.1)}


def sliding(d, config):
    config["use_sliding_window"] = d.chance(0.5)
    config["sliding_window"] = d.one(None, 7, 16)
    config["max_window_layers"] = d.between(0, 4)
    if d.chance(0.3) and config["sliding_window"]:
        config["layer_types"] = d.layer_types(config["num_hidden_layers"])
    return config


def qwen2(d):
    config = sliding(d, llama_like(d))
    if d.chance(0.7):
        del config["head_dim"]
        config["hidden_size"] = config["num_attention_heads"] * 8
        config["rope_parameters"] = d.rope(8)
    return config


def qwen3(d):
    return {**sliding(d, llama_like(d)), "attention_bias": d.chance(0.3)}


def qwen3_moe(d):
    experts = d.between(2, 7)
    config = llama_like(d)
    layers = config["num_hidden_layers"]
    return {**config, "num_experts": experts, "num_experts_per_tok": d.between(1, experts),
            "moe_intermediate_size": d.between(9, 40), "norm_topk_prob": d.chance(0.5),
            "decoder_sparse_step": d.one(1, 1, 2), "attention_bias": d.chance(0.3),
            "mlp_only_layers": [i for i in range(layers) if d.chance(0.2)],
            "use_sliding_window": d.chance(0.3), "sliding_window": d.one(None, 7, 16)}


def gemma2(d):
    config = llama_like(d)
    config["hidden_activation"] = config.pop("hidden_act") if d.chance(0.5) else "gelu_pytorch_tanh"
    return {**config, "query_pre_attn_scalar": d.one(8, 24, 256), "sliding_window": d.one(7, 16),
            "attn_logit_softcapping": d.one(None, 2.0, 50.0), "final_logit_softcapping": d.one(None, 5.0, 30.0),
            "attention_bias": d.chance(0.3),
            **({"layer_types": d.layer_types(config["num_hidden_layers"])} if d.chance(0.4) else {})}


def phi3(d):
    heads, kv = d.heads()
    dims = d.one(8, 12, 16)
    partial = d.one(None, 1.0, 0.5, 0.75)
    rope = d.rope(int(dims * (partial or 1)), partial, ("default", "longrope", "longrope"))
    config = {
        "hidden_size": heads * dims, "intermediate_size": d.between(17, 90), "num_hidden_layers": d.between(1, 4),
        "num_attention_heads": heads, "num_key_value_heads": kv, "hidden_act": d.activation("silu"),
        "rms_norm_eps": d.eps(), "tie_word_embeddings": d.chance(0.4), "max_position_embeddings": 128,
        "sliding_window": d.one(None, 7, 16, 64), "rope_parameters": rope,
    }
    config["original_max_position_embeddings"] = rope.get("original_max_position_embeddings", 64)
    return config


def starcoder2(d):
    heads, kv = d.heads()
    dims = d.one(4, 8, 12)
    return {
        "hidden_size": heads * dims, "intermediate_size": d.between(17, 90), "num_hidden_layers": d.between(1, 4),
        "num_attention_heads": heads, "num_key_value_heads": kv, "hidden_act": d.activation("gelu_pytorch_tanh"),
        "norm_epsilon": d.eps(), "use_bias": d.chance(0.6), "tie_word_embeddings": d.chance(0.6),
        "max_position_embeddings": 128, "sliding_window": d.one(None, 7, 16), "rope_parameters": d.rope(dims),
    }


FAMILIES = {function.__name__: function for function in (
    bloom, falcon, gemma2, gpt2, gpt_neo, gpt_neox, gptj, llama, mistral, mixtral, opt, phi3, qwen2, qwen3, qwen3_moe,
    starcoder2, *hybrid_families.FAMILIES)} | dense_families.FAMILIES | {
        **mixture_families.FAMILIES, **latent_families.FAMILIES, **compressed_families.FAMILIES}


def fill(torch, model, generator, family):
    """Weights that make every part count: norms and biases away from their neutral values, logits far apart."""
    centred = family in ("gemma", "gemma2", "gemma3_text") or family.startswith(("qwen3_next", "qwen3_5"))
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        if parameter.dim() == 1 or "norm" in name:
            is_norm = name.endswith("weight")
            value = (0.0 if (centred and "linear_attn" not in name) or not is_norm else 1.0) + noise * (0.3 if is_norm else 0.2)
        elif any(part in name for part in ("embed", "wte", "wpe", "lm_head")):
            value = noise * 0.5
        else:
            inputs = parameter.shape[0] if family == "gpt2" else parameter.shape[-1]
            value = noise * (1.3 / inputs**0.5)
        with torch.no_grad():
            parameter.copy_(value)
    for name, buffer in model.named_buffers():
        if "correction_bias" in name:
            buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=torch.float32) * 0.2)
        if name.endswith("tid2eid"):
            chosen = torch.rand(buffer.shape[0], model.config.n_routed_experts, generator=generator).argsort(1)
            buffer.copy_(chosen[:, :buffer.shape[1]])
        if name.endswith("layer_scalar"):
            buffer.copy_(0.5 + torch.rand(1, generator=generator))


def spell_by_type(written, draw):
    """As version 4 wrote rotations of two kinds of layers, where it could: only those of full ones scaled."""
    rope = written.pop("rope_parameters")
    full, sliding = dict(rope["full_attention"]), rope["sliding_attention"]
    theta, kind = full.pop("rope_theta"), full.pop("rope_type")
    written["rope_theta"] = theta
    if written["model_type"] == "gemma3_text":
        written["rope_local_base_freq"] = sliding["rope_theta"]
    if kind != "default":
        written["rope_scaling"] = {"rope_type": kind, **full}  # the library passes over `type` here


def as_written(config, draw):
    """The same configuration as a publisher may have spelt it: keys left out, null, or of version 4."""
    written = {}
    for key, value in config.items():
        if key not in KEPT and draw.chance(0.15):
            if draw.chance(0.03):
                written[key] = None
            continue
        written[key] = value
    if written["model_type"] == "deepseek_v4":
        compressed_families.spell(written, draw)
        return written
    rope = written.get("rope_parameters")
    if rope is not None and "full_attention" in rope:
        if draw.chance(0.4) and written["model_type"] in ("gemma3_text", "olmo3"):
            spell_by_type(written, draw)
        return written
    if rope is not None and draw.chance(0.4):
        del written["rope_parameters"]
        rope = dict(rope)
        theta, kind = rope.pop("rope_theta", None), rope.pop("rope_type", "default")
        part = rope.pop("partial_rotary_factor", None)
        old = written.get("model_type") == "gpt_neox" and draw.chance(0.7)
        if theta is not None and draw.chance(0.9):
            written["rotary_emb_base" if old else "rope_theta"] = theta
        if part is not None and draw.chance(0.9):
            written["rotary_pct" if old else "partial_rotary_factor"] = part
        if kind != "default":
            written["rope_scaling"] = {draw.one("rope_type", "type"): kind, **rope}
        elif draw.chance(0.5):
            written["rope_scaling"] = None
    if "dtype" in written and draw.chance(0.5):
        written["torch_dtype"] = written.pop("dtype")
    return written


def make(family, folder, seed, torch, transformers):
    draw = Draw(f"{family}/{seed}")
    generator = torch.Generator().manual_seed(seed)
    vocabulary = draw.between(40, 120)
    options = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **FAMILIES[family](draw)}
    stored = draw.one("float32", "float16", "bfloat16")
    config = transformers.AutoConfig.for_model(family, **options)
    model = transformers.AutoModelForCausalLM.from_config(config)
    fill(torch, model, generator, family)
    published = Draw(f"{family}/{seed}/names").chance(0.5)
    model.to(getattr(torch, stored)).save_pretrained(folder, save_original_format=published)
    path = folder / "config.json"
    written = as_written(json.loads(path.read_text()), draw)
    path.write_text(json.dumps(written, indent=1))

    # What a user loads, not what is in memory.
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=ATTENTION.get(family, "eager"),
        experts_implementation="eager", output_loading_info=True)
    missing = [key for key in loading["missing_keys"] if "rotary" not in key]
    if missing or loading["mismatched_keys"]:
        raise RuntimeError(f"the weights are not those of the configuration: {loading}")
    model.eval()
    what = "names as published" if published else "names as in memory"
    return {**reference_logits(torch, lambda: fresh(model, family), vocabulary, generator), "what": what}


def reference_logits(torch, current, vocabulary, generator):
    """Random tokens, and the logits after each of the last ones; current() is the model, as if nothing had been computed."""
    ids, logits = [], []
    for length in PROMPT_LENGTHS:
        sequence = torch.randint(vocabulary, (length + FURTHER_TOKENS,), generator=generator).tolist()
        rows = []
        for end in range(length, length + FURTHER_TOKENS + 1):
            with torch.no_grad():
                out = current()(torch.tensor([sequence[:end]]), use_cache=False).logits[0, -1].float()
            if not torch.isfinite(out).all():
                raise RuntimeError("logits are not finite")
            rows.append([float(f"{value:.7g}") for value in out.tolist()])
        ids.append(sequence)
        logits.append(rows)
    return {"ids": ids, "given": PROMPT_LENGTHS, "logits": logits}


def fresh(model, family):
    """Some rotary scalings remember the longest sequence: their frequencies are reset."""
    import copy

    remembers = any("rotary" in name for name, _ in model.named_modules())
    return copy.deepcopy(model) if remembers else model


def main():
    parser = argparse.ArgumentParser(description="Random configurations with the reference's logits.")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="families, separated by commas")
    parser.add_argument("--wrapped", action="store_true", help="each as the text part of a checkpoint that also sees")
    arguments = parser.parse_args()
    torch, transformers = quiet_reference()
    every = [name for name in FAMILIES if name in wrapped.WRAPPERS] if arguments.wrapped else FAMILIES
    for family in arguments.only.split(",") if arguments.only else every:
        made, refused, number = 0, {}, 0
        # Those that the reference refuses are kept beside the wanted number, but not without end.
        while made < arguments.count and number < 3 * arguments.count:
            folder = arguments.output / family / f"{number:03}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            number += 1
            try:
                seed = arguments.seed * 100000 + number
                expected = make(family, folder, seed, torch, transformers)
                if arguments.wrapped:
                    wrapped.wrap(folder, Draw(seed), torch)
                made += 1
            except Exception as error:
                expected = {"refused": f"{type(error).__name__}: {error}"[:500]}
                refused[expected["refused"][:70]] = refused.get(expected["refused"][:70], 0) + 1
                if os.environ.get("ZI_DEBUG"):
                    traceback.print_exc()
            (folder / "expected.json").write_text(json.dumps(expected))
        print(f"{family}: {made} of {number} have results; the reference refuses {refused}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
