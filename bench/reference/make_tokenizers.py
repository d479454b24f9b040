"""Random tokenizer folders and what transformers makes of them; tokenizers.ts compares.

usage: python make_tokenizers.py FIXTURES OUT [COUNT] [SEED] [BAKED]   (transformers 5.17 with sentencepiece; no torch)
FIXTURES is test/fixtures/models. OUT gets a folder per case with expected.json in it, BAKED a few of the cases for the suite.
"""

import copy, json, os, random, shutil, sys, warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
from transformers import AutoTokenizer, logging

logging.set_verbosity_error()

TEXTS = [
    "To be, or not", "Once upon a time", "", " leading", "trailing ", "two  spaces\n\nand lines\r\n\ttab",
    "<s>[system]Be</s>\n<|user|>\nHi <|im_end|> x<|new|>y <mask> z", "don't we'll 123 4567 3.14",
    "café cafe\u0301 naïve ﬁ Ⅷ", "日本語 🙂👍🏽 \u200d\ufeff\u0000x", "▁a ▁ b", "A<pad>B <unk> C</s>", "<|new|> <|new|>x<tail> ",
    "wordadded addedword added word", " <|im_start|>  user", "ADDED Added",
]


def fixture(root, name):
    folder = os.path.join(root, name)
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
        return json.load(file)


def typed(content, rng):
    return {"__type": "AddedToken", "content": content, "single_word": rng.random() < 0.1, "lstrip": rng.random() < 0.3,
            "rstrip": rng.random() < 0.3, "normalized": rng.random() < 0.5, **({"special": True} if rng.random() < 0.5 else {})}


def flags(content, rng, special=None):
    return {"content": content, "single_word": rng.random() < 0.1, "lstrip": rng.random() < 0.3, "rstrip": rng.random() < 0.3,
            "normalized": rng.random() < 0.5, "special": rng.random() < 0.5 if special is None else special}


def named(rng, kinds, with_flags):
    out = {}
    for role, choices in {
        "bos_token": ["<s>", "<|new|>", "<bos>"], "eos_token": ["</s>", "<|im_end|>", "<|endoftext|>"],
        "unk_token": ["<unk>"], "pad_token": ["<pad>", "</s>", "<|pad|>"], "mask_token": ["<mask>"], "image_token": ["<image>"],
    }.items():
        if rng.random() < (0.7 if role in ("bos_token", "eos_token") else 0.25):
            content = rng.choice(choices)
            kind = rng.choice(kinds)
            if kind == "none":
                out[role] = None
            elif kind == "typed" and with_flags:
                out[role] = typed(content, rng)
            elif kind == "map" and with_flags:
                out[role] = {k: v for k, v in flags(content, rng).items() if k != "special"}
            else:
                out[role] = content
    return out


def draw(root, rng):
    """A case as plain data: test/helpers/tokenizer-cases.ts builds the same folder from it."""
    base = rng.choice(["stories260K", "gpt2", "shakespeare-bloom", "gpt2"])
    tok = fixture(root, base)
    size = len(tok["model"]["vocab"])
    byte_level = base != "stories260K"
    byte_classes = ["GPT2Tokenizer", "GPT2TokenizerFast", "GPTNeoXTokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast",
                    "CodeGenTokenizer", "CohereTokenizerFast", "PreTrainedTokenizerFast", "BloomTokenizerFast", "MadeUpTokenizer", None]
    space_classes = ["LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "GemmaTokenizer", "GemmaTokenizerFast",
                     "PreTrainedTokenizerFast", "TokenizersBackend", None]
    cls = rng.choice(byte_classes if byte_level else space_classes)
    model_types = (["gpt2", "opt", "gpt_neo", "gptj", "gpt_neox", "bloom", "falcon", "qwen2", "qwen3", "starcoder2", "phi", "llama", "mistral"]
                   if byte_level else ["llama", "mistral", "mixtral", "gemma2", "phi3"])
    settings = {"tokenizer_class": cls} if cls else {}
    settings.update(named(rng, ["text", "text", "text", "typed", "none"], True))
    for key, values, share in [("add_bos_token", [True, False], 0.4), ("add_eos_token", [True, False], 0.3),
                               ("add_prefix_space", [True, False], 0.3), ("legacy", [True, False, None], 0.3),
                               ("clean_up_tokenization_spaces", [True, False], 0.3)]:
        if rng.random() < share:
            settings[key] = rng.choice(values)
    if rng.random() < 0.3:
        key = rng.choice(["additional_special_tokens", "extra_special_tokens"])
        settings[key] = rng.choice([["<|new|>", "<tail>"], ["<|im_start|>", "<|im_end|>"], []])
        if key == "extra_special_tokens" and rng.random() < 0.4:
            settings[key] = {"image_token": "<image>", "tail_token": "<tail>"}
    if rng.random() < 0.35:
        known = {t["id"]: {k: v for k, v in t.items() if k != "id"} for t in tok["added_tokens"]} if rng.random() < 0.8 else {}
        for i, content in enumerate(rng.sample(["<|new|>", "<tail>", "added", "<|im_end|>", "<|im_start|>", " word"], rng.randint(0, 4))):
            known[size + i] = flags(content, rng)
        settings["added_tokens_decoder"] = {str(k): v for k, v in known.items()}
    files = {"config.json": {"model_type": rng.choice(model_types), "vocab_size": 2048}, "tokenizer_config.json": settings}
    if rng.random() < 0.1:
        del files["tokenizer_config.json"]
    if rng.random() < 0.4:
        files["special_tokens_map.json"] = named(rng, ["text", "map"], True)
        if rng.random() < 0.3:
            files["special_tokens_map.json"]["additional_special_tokens"] = ["<tail>", "<|im_start|>"]
    if rng.random() < 0.3:
        files["added_tokens.json"] = {c: size + i for i, c in enumerate(rng.sample(["<|new|>", "added", "<tail>", "<|im_end|>"], rng.randint(1, 3)))}
    case = {"base": base, "files": files, "form": "json"}
    if rng.random() < 0.35:
        case["form"] = "merges" if byte_level else "pieces"
        case["crlf"] = rng.random() < 0.3
        case["version"] = rng.random() < 0.7
        case["lastLineEnd"] = rng.random() < 0.8
        case["addedInVocab"] = rng.random() < 0.8
    else:
        case["noPostProcessor"] = rng.random() < 0.3
        case["sortedKeys"] = rng.random() < 0.2
        if rng.random() < 0.3:
            case["moreAdded"] = {"id": size, **flags("added", rng)}
    return case


def build(root, case, folder):
    tok = fixture(root, case["base"])
    model = tok["model"]
    os.makedirs(folder)
    files = dict(case["files"])
    if case["form"] == "merges":
        files["vocab.json"] = {**model["vocab"], **({t["content"]: t["id"] for t in tok["added_tokens"]} if case["addedInVocab"] else {})}
        end = "\r\n" if case["crlf"] else "\n"
        lines = (["#version: 0.2"] if case["version"] else []) + [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
        with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8", newline="") as file:
            file.write(end.join(lines) + (end if case["lastLineEnd"] else ""))
    elif case["form"] == "pieces":
        write_pieces(os.path.join(folder, "tokenizer.model"), tok)
    else:
        if case["noPostProcessor"]:
            tok["post_processor"] = None
        if "moreAdded" in case:
            tok["added_tokens"].append(case["moreAdded"])
        if case["sortedKeys"]:
            tok["model"] = dict(sorted(model.items()))
            tok = dict(sorted(tok.items()))
        files["tokenizer.json"] = tok
    for name, value in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file)


def write_pieces(path, tok):
    def varint(n):
        out = b""
        while n > 127:
            out += bytes([n & 127 | 128]); n >>= 7
        return out + bytes([n])
    import struct
    data = b""
    for piece, i in sorted(tok["model"]["vocab"].items(), key=lambda item: item[1]):
        kind = 2 if piece == "<unk>" else 3 if piece in ("<s>", "</s>") else 6 if piece.startswith("<0x") else 1
        text = piece.encode()
        body = b"\x0a" + varint(len(text)) + text + b"\x15" + struct.pack("<f", -float(i)) + (b"" if kind == 1 else b"\x18" + varint(kind))
        data += b"\x0a" + varint(len(body)) + body
    trainer = b"\x18\x02" + b"\x98\x02\x01"
    data += b"\x12" + varint(len(trainer)) + trainer
    with open(path, "wb") as file:
        file.write(data)


def expected(folder):
    try:
        t = AutoTokenizer.from_pretrained(folder)
        texts = []
        for text in TEXTS:
            ids = t(text)["input_ids"]
            bare = t(text, add_special_tokens=False)["input_ids"]
            texts.append({"text": text, "ids": ids, "bare": bare, "decoded": t.decode(bare), "shown": t.decode(bare, skip_special_tokens=True)})
        length = len(t)
        special = [i for i in range(length) if t.decode([i], skip_special_tokens=True) == "" and t.decode([i]) != ""]
        return {"class": type(t).__name__, "size": length, "named": t.special_tokens_map, "bos": t.bos_token_id, "eos": t.eos_token_id,
                "pad": t.pad_token_id, "special": special, "texts": texts}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def bake(cases, path):
    """Cases of every class and form for the suite, with fewer texts."""
    seen, chosen = {}, []
    for case in cases:
        key = (case["expected"].get("class"), case["form"])
        if "error" in case["expected"] or key == ("TokenizersBackend", "pieces"):
            continue  # the second is refused by name
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= 2:
            chosen.append(case)
            case["expected"]["texts"] = [t for t in case["expected"]["texts"] if t["text"] in TEXTS[6:9:2] + TEXTS[7:8] + TEXTS[12:13]]
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in chosen) + "\n]\n")


def main():
    root, out = sys.argv[1], sys.argv[2]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    shutil.rmtree(out, ignore_errors=True)
    cases = []
    for i in range(count):
        rng = random.Random(seed * 1_000_003 + i)
        case = draw(root, rng)
        folder = os.path.join(out, f"{i:04d}")
        build(root, case, folder)
        case["expected"] = expected(folder)
        cases.append(case)
        with open(os.path.join(folder, "expected.json"), "w", encoding="utf-8") as file:
            json.dump(case["expected"], file)
    if len(sys.argv) > 5:
        bake(cases, sys.argv[5])


main()
