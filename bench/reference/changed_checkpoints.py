"""Fixture checkpoints with one value of their configuration changed, or one tensor, and what transformers makes of them.

    python bench/reference/changed_checkpoints.py OUTPUT [--only llama,gpt2] [--keys 'window|layer_types']
    node dist/bench/reference/compare-configs.js OUTPUT

Each begins with all that the reference knows of a family, so that what a fixture leaves out is changed as well. A configuration
that contradicts its weights must be refused, be told of, or give the reference's logits.
"""

import argparse
import json
import pathlib
import re
import shutil
import sys

from quiet_reference import quiet_reference

FIXTURES = pathlib.Path(__file__).parents[2] / "test/fixtures/models"
FAMILIES = ["bloom", "falcon-7b-style", "falcon-11b-style", "falcon-40b-style", "falcon-alibi-style", "gemma2", "gpt2",
            "gpt_neo", "gpt_neox", "gptj", "llama", "mistral", "mixtral", "opt", "opt-350m-style", "phi3", "qwen2",
            "qwen3", "qwen3_moe", "starcoder2", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "dots1",
            "ernie4_5_moe", "exaone4", "gemma", "gemma3_text", "gemma4_moe", "gemma4_text", "gemma4_text-inputs-per-layer",
            "glm", "glm4", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "gpt_bigcode", "gpt_oss", "granite", "granitemoe",
            "granitemoehybrid", "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "llama4_text", "mimo_v2_flash",
            "minimax_m2", "ministral3", "mpt", "nemotron", "nemotron_h", "olmo2", "olmo3", "olmoe", "phi", "phimoe",
            "qwen2_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "seed_oss", "smollm3"]
# What no arithmetic depends on, or what is of training and of other ways to generate.
IGNORED = {"bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "use_cache",
           "initializer_range", "transformers_version", "model_type", "architectures", "dtype", "torch_dtype",
           "_name_or_path", "id2label", "label2id", "num_labels", "problem_type", "return_dict", "output_attentions",
           "output_hidden_states", "chunk_size_feed_forward", "is_encoder_decoder", "finetuning_task", "pruned_heads",
           "output_router_logits", "router_aux_loss_coef", "attn_implementation", "tokenizer_class", "auto_map"}
OTHER_TEXTS = {"silu": "gelu", "gelu": "relu", "relu": "gelu", "relu2": "relu", "gelu_new": "relu",
               "gelu_pytorch_tanh": "silu", "full_attention": "sliding_attention", "sliding_attention": "full_attention",
               "sparse": "dense", "dense": "sparse", "linear_attention": "full_attention", "mamba": "attention",
               "attention": "mamba", "moe": "mlp", "mlp": "moe", "chunked_attention": "full_attention"}
# Longer than the fixtures' windows and chunks.
PROMPT, FURTHER = 41, 1


def values_near(value):
    """Numbers halved, doubled and moved by one, flags turned, texts that mean another known thing and an unknown one."""
    if value is None:
        yield from (1, True, 0.5)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (other for other in sorted({value * 2, value // 2, value + 1, value - 1, 0} - {value}) if other >= 0)
    elif isinstance(value, float):
        yield from {value * 2 or 0.5, value / 2 - 0.125}
    elif isinstance(value, str):
        yield from (other for other in (OTHER_TEXTS.get(value), "unheard-of") if other)
    elif isinstance(value, list) and value:
        yield value[:-1]
        yield value + value[-1:]
        yield value[1:] + value[:1]
        yield from ([*value[:-1], other] for other in values_near(value[-1]))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield {name: other for name, other in value.items() if name != key}
            yield from ({**value, key: other} for other in values_near(inner))


def changes_of(config):
    """One changed key each, also left out and made null."""
    yield "nothing changed", config
    for key, value in config.items():
        if key in IGNORED:
            continue
        without = {name: other for name, other in config.items() if name != key}
        yield f"{key} left out", without
        yield f"{key} null", {**config, key: None}
        for other in values_near(value):
            yield f"{key} {json.dumps(value)} -> {json.dumps(other)}", {**config, key: other}
    if "tie_word_embeddings" not in config:
        for tied in (True, False):
            yield f"tie_word_embeddings {tied}", {**config, "tie_word_embeddings": tied}


def changed_weights(torch, tensors, embedding):
    """One change of tensors each."""
    head = "lm_head.weight"
    table = tensors[embedding]
    other = table.roll(1, 0).contiguous()
    without = {name: value for name, value in tensors.items() if name not in (embedding, head)}
    yield "only the head", {**without, head: table.clone()}
    yield "only the embedding", {**without, embedding: table}
    yield "both, equal", {**without, embedding: table, head: table.clone()}
    yield "both, different", {**without, embedding: table, head: other}
    yield "neither", without
    name, value = next((name, value) for name, value in tensors.items() if value.dim() == 1)
    yield "a tensor too many", {**tensors, name.replace("weight", "bias").replace("norm", "other"): value.clone()}
    yield "one lacking", {key: other for key, other in tensors.items() if key != name}


def result(folder, torch, transformers, family):
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa" if family.startswith("falcon") else "eager",
        experts_implementation="eager", output_loading_info=True)
    lacking = [key for key in loading["missing_keys"] if "rotary" not in key]
    if lacking or loading["mismatched_keys"]:
        raise RuntimeError(f"lacking {lacking[:3]}, of another shape {list(loading['mismatched_keys'])[:3]}")
    model.eval()
    generator = torch.Generator().manual_seed(1)
    size = model.get_input_embeddings().weight.shape[0]
    sequence = torch.randint(4, size, (PROMPT + FURTHER,), generator=generator).tolist()
    rows = []
    for end in range(PROMPT, PROMPT + FURTHER + 1):
        with torch.no_grad():
            logits = model(torch.tensor([sequence[:end]]), use_cache=False).logits[0, -1].float()
        if not torch.isfinite(logits).all():
            raise RuntimeError("logits are not finite")
        rows.append([float(f"{value:.7g}") for value in logits.tolist()])
    unexpected = sorted(loading["unexpected_keys"])
    return {"ids": [sequence], "given": [PROMPT], "logits": [rows], "unexpected": unexpected}


def main():
    parser = argparse.ArgumentParser(description="Changed checkpoints with the reference's logits.")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--only", help="fixtures, separated by commas")
    parser.add_argument("--keys", help="a pattern: only changes of such keys of the configuration")
    arguments = parser.parse_args()
    torch, transformers = quiet_reference()
    import safetensors.torch
    for family in arguments.only.split(",") if arguments.only else FAMILIES:
        written = json.loads((FIXTURES / family / "config.json").read_text())
        known = transformers.AutoConfig.from_pretrained(FIXTURES / family).to_dict()
        config = {**known, **written}
        tensors = {}
        for shard in sorted((FIXTURES / family).glob("*.safetensors")):
            tensors.update(safetensors.torch.load_file(shard))
        arguments.output.mkdir(parents=True, exist_ok=True)
        weights = (arguments.output / f"{family}.safetensors").resolve()
        safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
        model = transformers.AutoModelForCausalLM.from_pretrained(FIXTURES / family)
        table = model.get_input_embeddings().weight
        embedding = next(name for name, value in tensors.items() if value.shape == table.shape and "embed" in name or
                         name in ("transformer.wte.weight", "wte.weight", "word_embeddings.weight"))
        cases = [(what, changed, None) for what, changed in changes_of(config)]
        if arguments.keys:
            cases = [case for case in cases if re.search(arguments.keys, case[0].split(" ")[0])]
        for tied in (True, False) if not arguments.keys else ():
            for what, changed in changed_weights(torch, tensors, embedding):
                cases.append((f"tied {tied}, {what}", {**config, "tie_word_embeddings": tied}, changed))
        done = refused = 0
        for number, (what, changed, others) in enumerate(cases):
            folder = arguments.output / family / f"{number:03}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(json.dumps(changed))
            if others is None:
                (folder / "model.safetensors").symlink_to(weights)
            else:
                safetensors.torch.save_file(others, folder / "model.safetensors", metadata={"format": "pt"})
            try:
                expected = result(folder, torch, transformers, family)
                done += 1
            except Exception as error:
                expected = {"refused": f"{type(error).__name__}: {error}"[:500]}
                refused += 1
            (folder / "expected.json").write_text(json.dumps({**expected, "what": what}))
        print(f"{family}: {done} have results, {refused} are refused by the reference", flush=True)


if __name__ == "__main__":
    sys.exit(main())
