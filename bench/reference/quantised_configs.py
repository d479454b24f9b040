#!/usr/bin/env python3
"""Random configurations of every family whose weights are stored in random formats, and what transformers makes of what they mean.

    python quantised_configs.py OUTPUT [--count 300] [--seed 1] [--styles gptq,awq] [--only llama,gpt_oss]
    node dist/bench/reference/compare-configs.js OUTPUT

Each is one of random_configs.py with sizes that formats can hold, experts singly or of one tensor, several files, and models that
also see. What codes and scales mean is stored_formats.py's; the reference loads these values as a plain checkpoint.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import traceback

import mixture_families
import random_configs
import stored_formats
import wrapped
from quiet_reference import quiet_reference
from random_configs import ATTENTION, Draw

# What makers leave as it is.
PLAIN = re.compile(r"embed|wte|wpe|norm|ln_|router|gate\.weight$|conv|lm_head|embed_out|A_log|sinks|per_layer|shared_expert_gate|"
                   r"in_proj_[ab]|hc_|position|rotary|tid2eid|compressor|indexer|b_proj|score|layer_scalar|wq_b\.bias|gate_proj_bias")
SIZES = ("hidden_size", "intermediate_size", "moe_intermediate_size", "n_embd", "n_inner", "ffn_dim", "ffn_hidden_size",
         "shared_expert_intermediate_size", "d_model", "intermediate_size_mlp", "shared_intermediate_size", "kv_lora_rank", "q_lora_rank")


def gpt_oss(draw):
    config = mixture_families.base(draw, None, ("default", "yarn"))
    config.pop("hidden_act")
    layers = config["num_hidden_layers"]
    return {**config, **mixture_families.experts(draw, "num_local_experts"), "sliding_window": draw.one(7, 16),
            "layer_types": draw.layer_types(layers), "attention_bias": True}


FAMILIES = {**random_configs.FAMILIES, "gpt_oss": gpt_oss}


def widened(config, draw):
    """Sizes that groups and words of codes divide, most of the time."""
    unit = draw.one(1, 8, 16, 32, 32, 32)
    heads = next((config[name] for name in ("num_attention_heads", "n_head", "n_heads", "num_heads") if name in config), 1)
    grown = dict(config)
    for name in SIZES:
        if isinstance(config.get(name), int):
            step = unit * heads if name in ("hidden_size", "n_embd", "d_model") else unit
            grown[name] = -(-config[name] // step) * step
    return grown


def build(torch, transformers, family, draw):
    vocabulary = draw.between(40, 120)
    options = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **FAMILIES[family](draw)}
    for chosen in (widened(options, draw), options):
        try:
            config = transformers.AutoConfig.for_model(family, **chosen)
            return transformers.AutoModelForCausalLM.from_config(config), vocabulary
        except Exception as error:
            failure = error
    raise failure


def encoded(torch, tensors, style, encode, draw, family):
    """Tensors of the file, plain tensors that mean the same, and how many are stored so."""
    stored, meant, count = {}, {}, 0
    kept_whole = draw.chance(0.2)  # some modules are left as they are
    for name, value in tensors.items():
        is_fused = value.dim() == 3 and "experts" in name and not name.endswith("bias")
        fits = (value.dim() == 2 and name.endswith(".weight") or is_fused and style in stored_formats.FUSED) and not PLAIN.search(name)
        left = kept_whole and "experts" not in name and draw.chance(0.3)
        if style in ("mxfp4_blocks",) and not is_fused:
            fits = False
        if style == "fp4_experts" and "experts" not in name:
            fits = False
        if not fits or left or not value.is_floating_point():
            stored[name] = meant[name] = value
            continue
        turned = family == "gpt2" and value.dim() == 2 or is_fused and family in ("gpt_oss", "llama4_text")
        if turned and is_fused and style != "mxfp4_blocks":
            stored[name] = meant[name] = value
            continue
        matrix = (value.transpose(-1, -2) if turned else value).float().contiguous()
        try:
            own, result = encode(name, matrix, value.dtype)
        except stored_formats.Unfit:
            stored[name] = meant[name] = value
            continue
        if own.keys() & tensors.keys() - {name}:
            raise RuntimeError("names that are taken")
        stored |= {key: part.contiguous() for key, part in own.items()}
        meant[name] = (result.transpose(-1, -2) if turned else result).contiguous()
        count += 1
    return stored, meant, count


def save(torch, folder, tensors, draw):
    from safetensors.torch import save_file

    names = list(tensors)
    if not draw.chance(0.3):
        save_file({name: tensors[name].contiguous() for name in names}, folder / "model.safetensors", metadata={"format": "pt"})
        return
    draw.random.shuffle(names)
    cut = len(names) // 2
    files = {f"model-0000{i + 1}-of-00002.safetensors": part for i, part in enumerate((names[:cut], names[cut:]))}
    for file, part in files.items():
        save_file({name: tensors[name].contiguous() for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def make(folder, number, seed, torch, transformers, only, styles):
    from safetensors.torch import load_file, save_file

    draw = Draw(f"quantised/{seed}")
    style = styles[number % len(styles)]
    family = draw.one(*only) if style != "mxfp4_blocks" else "gpt_oss"
    quantisation, encode = stored_formats.STYLES[style](torch, draw)
    model, vocabulary = build(torch, transformers, family, draw)
    generator = torch.Generator().manual_seed(seed)
    random_configs.fill(torch, model, generator, family)
    stored_type = draw.one("float32", "float16", "bfloat16", "bfloat16")
    published = style != "mxfp4_blocks" and draw.chance(0.6)
    with tempfile.TemporaryDirectory() as plain:
        plain = pathlib.Path(plain)
        model.to(getattr(torch, stored_type)).save_pretrained(plain, save_original_format=published)
        tensors = load_file(plain / "model.safetensors")
        stored, meant, count = encoded(torch, tensors, style, encode, draw, family)
        save_file(meant, plain / "model.safetensors", metadata={"format": "pt"})
        written = random_configs.as_written(json.loads((plain / "config.json").read_text()), draw)
        (plain / "config.json").write_text(json.dumps(written))
        reference, loading = transformers.AutoModelForCausalLM.from_pretrained(
            plain, dtype=torch.float32, attn_implementation=ATTENTION.get(family, "eager"), experts_implementation="eager",
            output_loading_info=True)
        if loading["mismatched_keys"] or [key for key in loading["missing_keys"] if "rotary" not in key]:
            raise RuntimeError(f"the weights are not those of the configuration: {loading}")
        reference.eval()
        expected = random_configs.reference_logits(torch, lambda: random_configs.fresh(reference, family), vocabulary, generator)
    (folder / "config.json").write_text(json.dumps(written, indent=1))
    # Text parts of Qwen3-VL have no windows, whatever they say.
    slides = family == "qwen3" and written.get("use_sliding_window")
    is_wrapped = family in wrapped.WRAPPERS and not slides and draw.chance(0.3)
    if is_wrapped:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        wrapped.wrap(folder, draw, torch)
        stored = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        written = json.loads((folder / "config.json").read_text())
    save(torch, folder, stored, draw)
    # modelopt also has a file of its own.
    if quantisation["quant_method"] == "modelopt" and draw.chance(0.5):
        inner = {key: value for key, value in quantisation.items() if key != "quant_method"}
        (folder / "hf_quant_config.json").write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": inner}))
    else:
        written["quantization_config"] = quantisation
    (folder / "config.json").write_text(json.dumps(written, indent=1))
    what = f"{family}, {style}, {count} of {len(meant)}, {stored_type}{', wrapped' if is_wrapped else ''}"
    return {**expected, "what": f"{what}{'' if published else ', names in memory'}, {json.dumps(quantisation)[:200]}"}


def main():
    parser = argparse.ArgumentParser(description="Random configurations with stored weights, and the reference's logits.")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--styles", help="of storing, separated by commas")
    parser.add_argument("--only", help="families, separated by commas")
    arguments = parser.parse_args()
    torch, transformers = quiet_reference()
    styles = arguments.styles.split(",") if arguments.styles else list(stored_formats.STYLES)
    only = arguments.only.split(",") if arguments.only else list(FAMILIES)
    refused = {}
    for number in range(arguments.count):
        folder = arguments.output / styles[number % len(styles)] / f"{number:04}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            expected = make(folder, number, arguments.seed * 100000 + number, torch, transformers, only, styles)
        except Exception as error:
            expected = {"refused": f"{type(error).__name__}: {error}"[:500]}
            refused[expected["refused"][:90]] = refused.get(expected["refused"][:90], 0) + 1
            if os.environ.get("ZI_DEBUG"):
                traceback.print_exc()
        (folder / "expected.json").write_text(json.dumps(expected))
    print(f"{arguments.count} made; the reference refuses {sum(refused.values())}: {refused}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
