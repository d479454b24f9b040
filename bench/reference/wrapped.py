"""Puts a checkpoint of a language model into one that also sees, as its publisher or transformers 5 would have saved it."""

import json

# The type of the text part -> what may hold it, and how the text part is called there.
WRAPPERS = {
    "gemma3_text": [("gemma3", "gemma3_text")],
    "gemma4_text": [("gemma4", "gemma4_text")],
    "llama": [("llava", "llama"), ("llava_next", "llama")],
    "mistral": [("mistral3", "mistral"), ("llava", "mistral")],
    "ministral3": [("mistral3", "ministral3")],
    "qwen2": [("internvl", "qwen2")],
    "qwen3": [("qwen3_vl", "qwen3_vl_text")],
    "glm4": [("glm4v", "glm4v_text")],
}
PREFIXES = [("language_model.model.", "language_model.lm_head.weight"), ("model.language_model.", "lm_head.weight"),
            ("model.", "lm_head.weight")]
BESIDE = ("dtype", "torch_dtype", "architectures", "transformers_version")


def wrap(folder, draw, torch):
    """Rewrites config.json and the weights."""
    from safetensors.torch import load_file, save_file

    path = folder / "config.json"
    text = json.loads(path.read_text())
    outer, inner = draw.one(*WRAPPERS[text["model_type"]])
    prefix, head = draw.one(*PREFIXES)
    config = {key: text.pop(key) for key in BESIDE if key in text and draw.chance(0.5)}
    if "tie_word_embeddings" in text and draw.chance(0.6):
        config["tie_word_embeddings"] = text.pop("tie_word_embeddings")
    text["model_type"] = inner
    config |= {"model_type": outer, "text_config": text, "vision_config": {"model_type": "siglip_vision_model"}}
    path.write_text(json.dumps(config, indent=1))
    weights = folder / "model.safetensors"
    renamed = {head if name == "lm_head.weight" else prefix + name.removeprefix("model."): tensor
               for name, tensor in load_file(weights).items()}
    for name in ("vision_tower.layers.0.weight", "multi_modal_projector.linear.weight"):
        renamed[name] = torch.zeros(3, 5)
    save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, weights, metadata={"format": "pt"})
