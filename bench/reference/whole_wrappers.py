#!/usr/bin/env python3
"""Random checkpoints of models that also see, whole, and what transformers makes of a text alone.

    python whole_wrappers.py OUTPUT_FOLDER [--count 10] [--seed 1] [--only qwen3_vl_moe]
    node dist/bench/reference/compare-configs.js OUTPUT_FOLDER

Unlike `random_configs.py --wrapped`, which renames the tensors of a language model, each is a model of the wrapper's own class,
saved by it: under the names of its publisher, or under its own. What its text part leaves out is the wrapper's default.
"""

import argparse
import json
import pathlib
import shutil
import sys

from mixture_families import base, experts
from quiet_reference import quiet_reference
from random_configs import FAMILIES, Draw, reference_logits

EYE = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
       "patch_size": 14}
DEEP_EYE = {"hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 2, "patch_size": 14, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0], "spatial_merge_size": 2, "temporal_patch_size": 2}


def mrope(config, dims):
    half = dims // 2
    first = half - 2 * (half // 3)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [first, half // 3, half // 3]}
    return config


def plain(d):
    config = base(d, None, ("default",))
    config["hidden_act"] = "silu"
    return config


def qwen3_vl(d):
    config = plain(d)
    return mrope({**config, "attention_bias": d.chance(0.3)}, config["head_dim"])


def qwen3_vl_moe(d):
    config = {**qwen3_vl(d), **experts(d)}
    if d.chance(0.5):  # where sizes do not tell which way round experts are stored
        config["hidden_size"] = config["moe_intermediate_size"] * d.one(1, 2)
    layers = config["num_hidden_layers"]
    return {**config, "decoder_sparse_step": d.one(1, 1, 2), "mlp_only_layers": [i for i in range(layers) if d.chance(0.2)]}


def glm4v(d):
    config = plain(d)
    config["head_dim"] = d.one(8, 16)
    part = d.one(0.5, 1.0)
    config["hidden_size"] = config["num_attention_heads"] * config.pop("head_dim")
    dims = config["hidden_size"] // config["num_attention_heads"]
    mrope(config, int(dims * part))
    config["rope_parameters"]["partial_rotary_factor"] = part
    return config


def glm4v_moe(d):
    config = {**FAMILIES["glm4_moe"](d), "hidden_act": "silu"}
    config["head_dim"] = d.one(8, 16)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    quarter = config["head_dim"] // 4
    config["rope_parameters"]["mrope_section"] = [quarter - 2 * (quarter // 3), quarter // 3, quarter // 3]
    config.pop("use_qk_norm")
    return config


def step3p5(d):
    config = plain(d)
    layers = config["num_hidden_layers"]
    types = d.layer_types(layers)
    kv = config["num_key_value_heads"]
    del config["rope_parameters"]
    count = d.between(2, 7)
    scaling = {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 32, "low_freq_factor": 1.0,
               "high_freq_factor": 32.0}
    limits = lambda: d.one(None, [d.one(None, 0.0, 0.2, 0.5) for _ in range(layers)])
    return {**config, "layer_types": types, "sliding_window": d.one(5, 16), "num_sliding_attention_heads": kv * d.one(1, 2, 3),
            "n_routed_experts": count, "num_experts_per_tok": d.between(1, count), "moe_intermediate_size": d.between(9, 40),
            "share_expert_dim": d.between(9, 40), "moe_router_scaling_factor": d.one(1.0, 3.0), "mlp_bias": d.chance(0.2),
            "attention_bias": d.chance(0.2), "swiglu_limits": limits(), "swiglu_limits_shared": limits(),
            "mlp_layer_types": [d.one("dense", "sparse") for _ in range(layers)],
            "rope_theta": [d.one(5e5, 1e4)] * layers, "partial_rotary_factors": [d.one(0.5, 1.0)] * layers,
            "query_pre_attn_scalar": d.one(None, None, 20), **({"rope_scaling": scaling} if d.chance(0.6) else {})}


def qwen3_5(name):
    def text(d):
        config = FAMILIES[name](d)
        rope = config["rope_parameters"]
        if rope["rope_type"] == "default":
            half = int(config["head_dim"] * rope.get("partial_rotary_factor", 0.25)) // 2
            rope["mrope_section"] = [half - 2 * (half // 3), half // 3, half // 3]
        return config
    return text


def qwen2_vl(d):
    config = plain(d)
    dims = config.pop("head_dim")
    config["hidden_size"] = config["num_attention_heads"] * dims
    return mrope(config, dims)


# The wrapper's type -> possible text parts, by their types, and what sees.
WHOLE = {
    "gemma3": ({"gemma3_text": FAMILIES["gemma3_text"]}, EYE),
    "gemma4": ({"gemma4_text": FAMILIES["gemma4_text"]}, None),
    "mistral3": ({name: FAMILIES[name] for name in ("mistral", "ministral3", "mistral4") if name in FAMILIES}, {**EYE, "head_dim": 4}),
    "llama4": ({"llama4_text": FAMILIES["llama4_text"]}, {**EYE, "vision_output_dim": 8, "projector_input_dim": 8,
                                                         "projector_output_dim": 8}),
    "llava": ({"llama": FAMILIES["llama"], "mistral": FAMILIES["mistral"]}, EYE),
    "llava_next": ({"llama": FAMILIES["llama"]}, EYE),
    "internvl": ({"qwen2": FAMILIES["qwen2"], "qwen3": FAMILIES["qwen3"]}, {**EYE, "image_size": [28, 28], "patch_size": [14, 14]}),
    "qwen3_vl": ({"qwen3_vl_text": qwen3_vl}, {**DEEP_EYE, "out_hidden_size": None}),
    "qwen3_vl_moe": ({"qwen3_vl_moe_text": qwen3_vl_moe}, {**DEEP_EYE, "out_hidden_size": None}),
    "qwen3_5": ({"qwen3_5_text": qwen3_5("qwen3_5_text")}, {**DEEP_EYE, "out_hidden_size": None}),
    "qwen3_5_moe": ({"qwen3_5_moe_text": qwen3_5("qwen3_5_moe_text")}, {**DEEP_EYE, "out_hidden_size": None}),
    "glm4v": ({"glm4v_text": glm4v}, {**DEEP_EYE, "out_hidden_size": None}),
    "glm46v": ({"glm4v_text": glm4v}, {**DEEP_EYE, "out_hidden_size": None}),
    "glm4v_moe": ({"glm4v_moe_text": glm4v_moe}, {**DEEP_EYE, "out_hidden_size": None}),
    "llava_onevision": ({"qwen2": FAMILIES["qwen2"]}, EYE),
    "qwen2_vl": ({"qwen2_vl_text": qwen2_vl}, {"embed_dim": 16, "hidden_size": None, "depth": 1, "num_heads": 2, "patch_size": 14}),
    "qwen2_5_vl": ({"qwen2_5_vl_text": qwen2_vl}, {**DEEP_EYE, "out_hidden_size": None, "fullatt_block_indexes": [0]}),
    "kimi_k25": ({"deepseek_v3": FAMILIES["deepseek_v3"]}, EYE),
    "step3p7": ({"step3p5": step3p5}, {"width": 8, "layers": 1, "heads": 2, "mlp_ratio": 2.0, "image_size": 56, "patch_size": 14}),
}


def fill(torch, model, generator, text_type):
    centred = text_type in ("gemma3_text", "step3p5") or text_type.startswith("qwen3_5")
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        if parameter.dim() == 1 or "norm" in name:
            is_norm = name.endswith("weight")
            value = (0.0 if (centred and "linear_attn" not in name) or not is_norm else 1.0) + noise * (0.3 if is_norm else 0.2)
        else:
            value = noise * (0.5 if "embed" in name or "lm_head" in name else 1.3 / parameter.shape[-1] ** 0.5)
        with torch.no_grad():
            parameter.copy_(value)
    for name, buffer in model.named_buffers():
        if "correction_bias" in name:
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.2)
        if name.endswith("layer_scalar"):
            buffer.copy_(0.5 + torch.rand(1, generator=generator))


def make(wrapper, folder, seed, torch, transformers):
    draw = Draw(f"{wrapper}/{seed}")
    generator = torch.Generator().manual_seed(seed)
    texts, eye = WHOLE[wrapper]
    text_type = draw.one(*texts)
    vocabulary = draw.between(60, 120)
    text = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "model_type": text_type,
            **texts[text_type](draw)}
    seen = None if eye is None else {key: text["hidden_size"] if value is None else value for key, value in eye.items()}
    config = transformers.AutoConfig.for_model(wrapper, text_config=text, **({} if seen is None else {"vision_config": seen}))
    model = transformers.AutoModelForImageTextToText.from_config(config)
    fill(torch, model, generator, text_type)
    as_published = draw.chance(0.6)
    model.to(torch.bfloat16).save_pretrained(folder, **({} if as_published else {"save_original_format": False}))
    path = folder / "config.json"
    written = json.loads(path.read_text())
    for key in list(written["text_config"]):
        if key not in text and draw.chance(0.3):
            del written["text_config"][key]
    path.write_text(json.dumps(written, indent=1))
    model, loading = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    missing = [key for key in loading["missing_keys"] if "rotary" not in key]
    if missing or loading["mismatched_keys"]:
        raise RuntimeError(f"the weights are not those of the configuration: {missing[:3]}")
    model.eval()
    what = f"{text_type}, {'as published' if as_published else 'under its own names'}"
    return {**reference_logits(torch, lambda: model, vocabulary, generator), "what": what}


def main():
    parser = argparse.ArgumentParser(description="Models that also see, with the reference's logits of a text.")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="wrappers, separated by commas")
    arguments = parser.parse_args()
    torch, transformers = quiet_reference()
    for wrapper in arguments.only.split(",") if arguments.only else WHOLE:
        done, refused = 0, {}
        for number in range(arguments.count):
            folder = arguments.output / wrapper / f"{number:03}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                expected = make(wrapper, folder, arguments.seed * 1000 + number, torch, transformers)
                done += 1
            except Exception as error:
                expected = {"refused": f"{type(error).__name__}: {error}"[:500]}
                refused[expected["refused"][:160]] = refused.get(expected["refused"][:160], 0) + 1
            (folder / "expected.json").write_text(json.dumps(expected))
        print(f"{wrapper}: {done} have results; refused: {refused}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
