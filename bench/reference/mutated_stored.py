#!/usr/bin/env python3
"""Stored weights with one thing changed: a tensor, a setting, a file; and what they mean then, if anything.

    python mutated_stored.py OUTPUT [--count 200] [--seed 1] [--styles gptq,awq]
    node dist/bench/reference/compare-configs.js OUTPUT

--count is of each style. What a changed checkpoint means is stored_meaning.py's; where that refuses, or logits are not finite, so must
the project, or say a word. Where it gives a result, the project gives the same or refuses by name.
"""

import argparse
import copy
import json
import pathlib
import shutil
import sys

import stored_formats
import stored_meaning
from quiet_reference import quiet_reference
from random_configs import Draw

PROMPT, FURTHER = 7, 1
STYLES = [style for style in stored_formats.STYLES if style in stored_meaning.READERS]
WIDTHS = {1: ("uint8", "int8", "float8_e4m3fn", "float8_e8m0fnu", "float8_e5m2", "bool"), 2: ("float16", "bfloat16", "int16"),
          4: ("float32", "int32"), 8: ("int64", "float64")}


def original(torch, transformers, draw, style):
    """A model of one block, its tensors as they are stored, and which modules are."""
    is_mixture = draw.chance(0.25) or style == "fp4_experts"
    inner = draw.one(64, 96, 160) if style != "gptq" else draw.one(64, 96)
    sizes = {"vocab_size": 48, "hidden_size": 64, "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 16, "tie_word_embeddings": draw.chance(0.3)}
    if is_mixture:
        sizes |= {"num_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
    family = "qwen3_moe" if is_mixture else "llama"
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(family, **sizes, dtype="bfloat16"))
    generator = torch.Generator().manual_seed(draw.between(0, 10**6))
    plain = {}
    for name, value in published(model).items():
        noise = torch.randn(value.shape, generator=generator) * (0.5 if "embed" in name or "lm_head" in name else 1.3 / value.shape[-1]**0.5)
        plain[name] = (1 + 0.3 * noise if value.dim() == 1 else noise).to(torch.bfloat16)
    if sizes["tie_word_embeddings"]:
        plain.pop("lm_head.weight", None)
    config, encode = stored_formats.STYLES[style](torch, draw)
    stored, shapes = {}, {}
    for name, value in plain.items():
        if value.dim() == 2 and "proj" in name and (style != "fp4_experts" or "experts" in name):
            try:
                own, _ = encode(name, value.float(), torch.bfloat16)
                stored |= {key: part.contiguous() for key, part in own.items()}
                shapes[name] = tuple(value.shape)
                continue
            except stored_formats.Unfit:
                pass
        stored[name] = value
    return model, {**model.config.to_dict(), "dtype": "bfloat16", "quantization_config": config}, stored, shapes


def published(model):
    """Names and shapes of a published file: experts one by one."""
    named = {}
    for name, value in model.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            for expert in range(value.shape[0]):
                half = value.shape[1] // 2
                base = name.removesuffix("gate_up_proj") + f"{expert}."
                named |= {f"{base}gate_proj.weight": value[expert, :half], f"{base}up_proj.weight": value[expert, half:]}
        elif name.endswith("experts.down_proj"):
            for expert in range(value.shape[0]):
                named[name.removesuffix("down_proj") + f"{expert}.down_proj.weight"] = value[expert]
        else:
            named[name] = value
    return named


def into(torch, model, plain):
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            base = name.removesuffix("gate_up_proj")
            state[name] = torch.stack([torch.cat([plain[f"{base}{e}.gate_proj.weight"], plain[f"{base}{e}.up_proj.weight"]])
                                       for e in range(value.shape[0])]).float()
        elif name.endswith("experts.down_proj"):
            base = name.removesuffix("down_proj")
            state[name] = torch.stack([plain[f"{base}{e}.down_proj.weight"] for e in range(value.shape[0])]).float()
        elif name == "lm_head.weight" and name not in plain:
            state[name] = plain["model.embed_tokens.weight"].float()
        else:
            state[name] = plain[name].float()
    model = model.float()
    model.load_state_dict(state)
    return model.eval()


def beside(stored, shapes):
    """Names of tensors that stored modules are made of."""
    modules = [name.removesuffix(".weight") + "." for name in shapes]
    return [name for name in stored if any(name.startswith(module) for module in modules)]


def raw(torch, value):
    return value.contiguous().reshape(-1).view(torch.uint8)


def changed_tensor(torch, draw, stored, shapes):
    """One tensor changed; returns what was done."""
    if not shapes:
        return "nothing"
    name = draw.one(*beside(stored, shapes))
    value = stored[name]
    kind = draw.one("drop", "rename", "retype", "cast", "transpose", "reshape", "shorter", "longer", "swap", "special", "special", "bytes",
                    "index", "index", "extra", "negative", "ones")
    if kind == "drop":
        del stored[name]
    elif kind == "rename":
        ending = draw.one("weight_scale", "weight_scale_inv", "scale", "scales", "weight", "weight_zero_point", "weight_packed", "SCB",
                          "qzeros", "weight_global_scale", "weight_scale_2", "weight.absmax")
        module = next(name_ for name_ in shapes if name.startswith(name_.removesuffix(".weight") + ".")).removesuffix(".weight")
        if f"{module}.{ending}" in stored:
            return None
        stored[f"{module}.{ending}"] = stored.pop(name)
        name += f" as {ending}"
    elif kind == "retype":
        other = draw.one(*WIDTHS[value.element_size()])
        stored[name] = value.view(getattr(torch, other))
        name += f" {value.dtype} as {other}"
    elif kind == "cast":
        other = draw.one("float32", "float16", "bfloat16", "int32", "int64")
        if value.dtype == torch.float8_e8m0fnu:
            return None
        stored[name] = value.to(getattr(torch, other))
        name += f" {value.dtype} to {other}"
    elif kind == "transpose":
        if value.dim() != 2:
            return None
        stored[name] = value.T.contiguous()
    elif kind == "reshape":
        stored[name] = value.reshape(draw.one(list(value.shape) + [1], [1] + list(value.shape), [-1], [1, -1], [-1, 1]))
        name += f" {list(value.shape)} as {list(stored[name].shape)}"
    elif kind == "shorter":
        if value.dim() == 0 or value.shape[-1] < 2:
            return None
        stored[name] = (value[..., :-1] if draw.chance(0.5) or value.shape[0] < 2 else value[:-1]).contiguous()
        name += f" {list(value.shape)} to {list(stored[name].shape)}"
    elif kind == "longer":
        if value.dim() == 0:
            return None
        axis = draw.one(0, value.dim() - 1)
        part = value.narrow(axis, 0, 1)
        stored[name] = torch.cat([value.view(torch.uint8) if value.element_size() == 1 else value,
                                  part.view(torch.uint8) if value.element_size() == 1 else part], axis).view(value.dtype).contiguous()
        name += f" {list(value.shape)} to {list(stored[name].shape)}"
    elif kind == "swap":
        alike = [other for other in beside(stored, shapes) if other != name and other.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
        if not alike:
            return None
        other = draw.one(*alike)
        stored[name], stored[other] = stored[other], stored[name]
        name += f" with {other}"
    elif kind in ("special", "negative"):
        if not value.is_floating_point() or value.numel() == 0:
            return None
        flat = value.contiguous().clone().reshape(-1)
        at = draw.between(0, flat.numel() - 1)
        if value.dtype == torch.float8_e8m0fnu:
            number = draw.one(0, 1, 254, 255)
            flat.view(torch.uint8)[at] = number
        elif kind == "negative":
            flat[at] = -flat[at].float()
            number = "its negative"
        else:
            number = draw.one(float("nan"), float("inf"), 0.0, -0.0, 1e-45, 1e-40, 3e-6, 1e-7, 6e4, 1e30)
            flat[at] = number
        stored[name] = flat.reshape(value.shape)
        name += f" [{at}] = {number}"
    elif kind == "bytes":
        bytes_ = raw(torch, value).clone()
        at = draw.between(0, bytes_.numel() - 1)
        bytes_[at] = draw.between(0, 255)
        stored[name] = bytes_.view(value.dtype).reshape(value.shape)
        name += f" byte {at}"
    elif kind == "index":
        indices = [other for other in stored if other.endswith("g_idx")]
        if not indices:
            return None
        name = draw.one(*indices)
        value = stored[name].clone()
        what = draw.one("above", "below", "turned", "constant", "unused", "one unused", "mixed", "shifted")
        if what == "above":
            value[draw.between(0, len(value) - 1)] = value.max() + draw.one(1, 2, 1000, 2**30)
        elif what == "below":
            value[draw.between(0, len(value) - 1)] = -draw.one(1, 2, 2**31)
        elif what == "turned":
            value = value.flip(0)
        elif what == "constant":
            value[:] = 0
        elif what == "unused":
            value[:] = -1
        elif what == "one unused":
            value[3] = -1
        elif what == "mixed":
            value = value[torch.randperm(len(value), generator=torch.Generator().manual_seed(draw.between(0, 99)))]
        else:
            value = value + 1
        stored[name] = value.contiguous()
        name += f" {what}"
    elif kind == "ones":
        if value.is_floating_point():
            return None
        stored[name] = raw(torch, value).clone().fill_(draw.one(255, 0, 128)).view(value.dtype).reshape(value.shape)
    else:
        key = draw.one(*shapes)
        module = key.removesuffix(".weight")
        n, k = shapes[key]
        name, extra = draw.one(
            (f"{module}.pre_quant_scale", torch.rand(k)), (f"{key}_zero_point", torch.ones(n, 1, dtype=torch.int8)),
            (f"{key}_g_idx", torch.arange(k, dtype=torch.int32) // 32), (f"{key}_scale_2", torch.tensor(3.0)),
            (f"{key}_scale_inv", torch.rand(n, 1)), (f"{key}_scale", torch.rand(n, 1)), (f"{module}.bias", torch.rand(n)),
            (f"{module}.input_scale", torch.tensor(2.0)), (key, torch.rand(n, k).to(torch.bfloat16)), (f"{module}.scales", torch.rand(n)))
        if name in stored:
            return None
        stored[name] = extra
    return f"{kind} {name}"


SETTINGS = {"quant_method": ("gptq", "awq", "fp8", "compressed-tensors", "bitsandbytes", "modelopt", "mxfp8", "aqlm"),
            "weight_block_size": ([128, 128], [64, 64], [1, 128], [32, 1], None, [0, 128], [128]),
            "bits": (2, 3, 4, 8, 5, 16), "w_bit": (3, 4, 8), "group_size": (8, 16, 32, 64, 128, 48, -1, 0), "q_group_size": (16, 32, 64, -1),
            "num_bits": (4, 8, 3), "type": ("int", "float"), "symmetric": (True, False), "desc_act": (True, False), "sym": (True, False),
            "checkpoint_format": ("gptq", "gptq_v2", "marlin"), "version": ("gemm", "gemv", "marlin"), "zero_point": (True, False),
            "strategy": ("channel", "group", "tensor", "block"), "actorder": ("group", "weight", None), "block_structure": ("64x64", [16, 16]),
            "format": ("pack-quantized", "int-quantized", "float-quantized", "marlin-24", "dense", "nvfp4-pack-quantized"),
            "quant_algo": ("FP8", "NVFP4", "FP8_PB_WO", "W4A8_AWQ", "INT4_AWQ"), "fmt": ("e4m3", "e5m2"), "scale_fmt": ("ue8m0", "float"),
            "bnb_4bit_quant_type": ("nf4", "fp4", "int4"), "bnb_4bit_use_double_quant": (True, False), "targets": (["Linear"], ["re:.*q_proj"]),
            "modules_to_not_convert": (["lm_head"], ["q_proj"], ["model.layers.0"]), "ignore": (["lm_head"], ["re:.*"], []),
            "dynamic": ({"+:.*q_proj": {"bits": 8}}, {"-:.*": {}}, {"+:.*": {"group_size": 32}}), "lm_head": (True, False),
            "sparsity_config": ({"format": "sparse-24-bitmask"}, {"format": "dense"}), "transform_config": ({"config_groups": {"a": {}}},),
            "is_marlin_format": (True,), "activation_scheme": ("static", "dynamic"), "llm_int8_skip_modules": (["q_proj"],)}


def changed_setting(draw, config):
    """One setting changed, added or left out."""
    places = [config]
    if "config_groups" in config:
        group = config["config_groups"]["group_0"]
        places += [group, group["weights"], group["weights"]]
    place = draw.one(*places)
    if draw.chance(0.15):
        key = draw.one(*place)
        del place[key]
        return f"{key} left out"
    known = [key for key in place if key in SETTINGS]
    key = draw.one(*known) if known and draw.chance(0.75) else draw.one(*SETTINGS)
    before, place[key] = place.get(key), draw.one(*SETTINGS[key])
    return f"{key} {json.dumps(before)} -> {json.dumps(place[key])}" if place[key] != before else None


def meaning(torch, style, stored, shapes, config):
    """Plain values, or Refused."""
    settings = config.get("quantization_config")
    plain = {name: value for name, value in stored.items() if name.endswith(("norm.weight", "embed_tokens.weight", "lm_head.weight",
                                                                              "mlp.gate.weight"))}
    for key, shape in ((name, None) for name in every(stored, shapes)):
        if key not in shapes:
            plain[key] = stored[key]
            continue
        try:
            plain[key] = stored_meaning.READERS[style](stored_meaning.Stored(torch, stored, key), settings, *shapes[key]).to(torch.bfloat16)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise stored_meaning.Refused(f"{type(error).__name__} {error}") from error
    return plain


def every(stored, shapes):
    dense = [name for name in stored if name.endswith("proj.weight") and name not in shapes and stored[name].dim() == 2
             and stored[name].is_floating_point() and stored[name].element_size() > 1]
    return [*shapes, *dense]


def write(torch, folder, stored, draw):
    """In one file, or in two of which the names or the index may be mixed up; returns what was done to files."""
    from safetensors.torch import save_file

    parts = [list(stored)]
    if draw.chance(0.25):
        names = list(stored)
        draw.random.shuffle(names)
        parts = [names[:len(names) // 2], names[len(names) // 2:]]
    files = ["model.safetensors"] if len(parts) == 1 else [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    for file, names in zip(files, parts):
        save_file({name: stored[name].contiguous() for name in names}, folder / file, metadata={"format": "pt"})
    if len(parts) == 2:
        index = {"weight_map": {name: file for file, names in zip(files, parts) for name in names}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return [folder / file for file in files]


def changed_file(draw, paths):
    """Returns what was done, and whether the files still mean something."""
    if len(paths) == 2 and draw.chance(0.6):
        first, second = (path.read_bytes() for path in paths)
        paths[0].write_bytes(second)
        paths[1].write_bytes(first)
        return "files swapped", True
    path = draw.one(*paths)
    bytes_ = path.read_bytes()
    kind = draw.one("cut", "cut by one", "longer", "header")
    if kind == "longer":
        path.write_bytes(bytes_ + b"\0" * 3)
    elif kind == "header":
        path.write_bytes(bytes_[:8] + b"{" + bytes_[8:-1])
    else:
        path.write_bytes(bytes_[:-1] if kind == "cut by one" else bytes_[:draw.between(0, len(bytes_) - 1)])
    return f"{path.name} {kind}", False


def make(folder, style, seed, torch, transformers):
    draw = Draw(f"mutated/{style}/{seed}")
    model, config, stored, shapes = original(torch, transformers, draw, style)
    config = copy.deepcopy(config)
    what, broken = None, False
    way = draw.one("tensor", "tensor", "tensor", "tensor", "setting", "setting", "file") if draw.chance(0.97) else "nothing"
    while what is None:
        if way == "tensor":
            what = changed_tensor(torch, draw, stored, shapes)
        elif way == "setting":
            what = changed_setting(draw, config["quantization_config"])
        else:
            what = way
    paths = write(torch, folder, stored, draw)
    if way == "file":
        what, means = changed_file(draw, paths)
        broken = not means
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    sequence = torch.randint(48, (PROMPT + FURTHER,), generator=torch.Generator().manual_seed(seed)).tolist()
    result = {"ids": [sequence], "given": [PROMPT], "logits": [[]], "what": f"{style}, {what}"}
    if broken:
        return {**result, "refused": "a file is not whole"}
    try:
        plain = meaning(torch, style, stored, shapes, config)
    except stored_meaning.Refused as error:
        return {**result, "refused": str(error)[:300]}
    model = into(torch, model, plain)
    rows = []
    for end in range(PROMPT, PROMPT + FURTHER + 1):
        with torch.no_grad():
            rows.append(model(torch.tensor([sequence[:end]]), use_cache=False).logits[0, -1])
    if not all(torch.isfinite(row).all() for row in rows):
        return {**result, "refused": "logits are not finite"}
    return {**result, "logits": [[[float(f"{value:.7g}") for value in row.tolist()] for row in rows]]}


def main():
    parser = argparse.ArgumentParser(description="Stored weights with one thing changed, and what they mean.")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--styles", help="of storing, separated by commas")
    arguments = parser.parse_args()
    torch, transformers = quiet_reference()
    for style in arguments.styles.split(",") if arguments.styles else STYLES:
        refused = 0
        for number in range(arguments.count):
            folder = arguments.output / style / f"{number:03}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            expected = make(folder, style, arguments.seed * 100000 + number, torch, transformers)
            refused += "refused" in expected
            (folder / "expected.json").write_text(json.dumps(expected))
        print(f"{style}: {arguments.count} made, {refused} mean nothing", flush=True)


if __name__ == "__main__":
    sys.exit(main())
