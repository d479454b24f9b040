"""Vocabularies without a tokenizer.json, and the ids that SentencePiece and tiktoken make with them; vocabularies.ts compares.

usage: python make_vocabularies.py CORPUS OUT [COUNT] [SEED] [BAKED]   (sentencepiece and tiktoken)
CORPUS is a text to train on. OUT gets a folder per case with expected.json in it, BAKED a few small cases for the suite.
"""

import base64, json, os, random, shutil, sys, unicodedata

import regex
import sentencepiece
import tiktoken

SCRIPTS = [
    (0x20, 0x7E), (0xA1, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x621, 0x64A), (0x905, 0x939), (0xE01, 0xE2E),
    (0x10D0, 0x10F0), (0x1E00, 0x1EFF), (0x2010, 0x2030), (0x3041, 0x30FE), (0x4E00, 0x4FFF), (0xAC00, 0xACFF), (0xFF01, 0xFF5E),
    (0x1F600, 0x1F64F), (0x300, 0x36F), (0x2460, 0x24FF),
]
TEXTS = [
    "To be, or not", "", " ", "   ", " leading", "trailing ", "two  spaces\n\nand lines\r\n\ttab", "don't we'll I'D 123 4567 3.14 ١٢٣",
    "café cafe\u0301 naïve ﬁ Ⅷ ㍻ ｆｕｌｌ", "日本語のテキスト 한국어 中文字符abc", "🙂👍🏽 \u200d\ufeff x", "▁a ▁ b", "<sep>x <sep> y<user>", "a\u3000b\u00a0c\u2009 d",
    "a <0x4 b", "<0x41>", "a <0x41><0xE6> b<0x0A>", "日<0x4 1>\U0001F642é<0xFF>", "Hello World HelloWorld helloWORLD", "\u0000\u0007", "नमस्ते สวัสดี שלום مرحبا",
]


def drawn(rng):
    out = []
    for _ in range(rng.randint(1, 40)):
        low, high = rng.choice(SCRIPTS)
        out.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))) if rng.random() < 0.8 else rng.choice([" ", "  ", "\n", "\t", "<sep>"]))
    return "".join(out)


def sentencepiece_case(rng, corpus, folder, small):
    kind = rng.choice(["unigram", "bpe"])
    spells = rng.random() < 0.5
    options = dict(
        model_type=kind, vocab_size=(400 if spells else 150) if small else rng.choice([400, 700, 1200]), byte_fallback=spells,
        add_dummy_prefix=rng.random() < 0.7, remove_extra_whitespaces=rng.random() < 0.5, split_digits=rng.random() < 0.3,
        treat_whitespace_as_suffix=rng.random() < 0.15, character_coverage=0.98 if small else rng.choice([0.98, 1.0]),
        allow_whitespace_only_pieces=rng.random() < 0.3,
        user_defined_symbols=["<sep>", "<user>"] if rng.random() < 0.5 else [], control_symbols=["<ctrl>"] if rng.random() < 0.3 else [],
    )
    rules = os.path.join(folder, "rules.tsv")
    if small or rng.random() < 0.3:
        if rng.random() < 0.6:
            with open(rules, "w") as file:
                file.write("FB01\t66 69\n3000\t20\nA0\t20\n9\t20\n41\t61\n65 301\tE9\n")
            options["normalization_rule_tsv"] = rules
        else:
            options["normalization_rule_name"] = "identity"
    else:
        options["normalization_rule_name"] = rng.choice(["nfkc", "nmt_nfkc", "nfkc_cf", "identity"])
    prefix = os.path.join(folder, "tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        input=corpus, model_prefix=prefix, hard_vocab_limit=False, minloglevel=3, num_threads=1, input_sentence_size=4000, **options)
    for name in (prefix + ".vocab", rules):
        if os.path.exists(name):
            os.remove(name)
    processor = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
    options.pop("normalization_rule_tsv", None)
    return {"config": {"tokenizer_class": "PreTrainedTokenizerFast"}, "options": options}, lambda text: processor.encode(text)


KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
])
HUNYUAN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def trained(text, merges, pattern):
    ranks = {bytes([b]): b for b in range(256)}
    words = [[bytes([b]) for b in word.encode()] for word in regex.findall(pattern, text, regex.V1)]
    for _ in range(merges):
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        (left, right), _ = max(counts.items(), key=lambda item: item[1])
        ranks[left + right] = len(ranks)
        for word in words:
            for i in range(len(word) - 2, -1, -1):
                if i + 1 < len(word) and word[i] == left and word[i + 1] == right:
                    word[i:i + 2] = [left + right]
    return ranks


def ranks_case(rng, corpus, folder, small):
    is_kimi = rng.random() < 0.7
    pattern, name = (KIMI, "tiktoken.model") if is_kimi else (HUNYUAN, "hy.tiktoken")
    with open(corpus, encoding="utf-8") as file:
        text = file.read()
    at = rng.randrange(max(1, len(text) - 20000))
    ranks = trained(text[at:at + 3000], 60 if small else rng.choice([100, 300]), pattern)
    with open(os.path.join(folder, name), "wb") as file:
        for token, rank in ranks.items():
            file.write(base64.b64encode(token) + b" " + str(rank).encode() + b"\n")
    size = len(ranks)
    if is_kimi:
        named = {size: "[BOS]", size + 1: "[EOS]", size + 4: "<user>", size + 7: "<sep>", size + 255: "[PAD]"}
        config = {"tokenizer_class": "TikTokenTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
                  "bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]",
                  "added_tokens_decoder": {str(k): {"content": v, "special": v != "<sep>", "normalized": False, "lstrip": False, "rstrip": False, "single_word": False} for k, v in named.items()}}
        special = {named.get(i, f"<|reserved_token_{i}|>"): i for i in range(size, size + 256)}
    else:
        config = {"tokenizer_class": "HYTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_hy.HYTokenizer", None]}, "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
        names = ["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"] + [f"<|extra_{i}|>" for i in range(205)]
        special = {token: size + i for i, token in enumerate(names)}
    model = tiktoken.Encoding(name="x", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    prepare = (lambda text: text) if is_kimi else (lambda text: unicodedata.normalize("NFC", text))
    return {"config": config, "options": {"ranks": name}}, lambda text: model.encode(prepare(text), allowed_special="all")


def main():
    corpus, out = sys.argv[1], sys.argv[2]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 60
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    shutil.rmtree(out, ignore_errors=True)
    baked = []
    for i in range(count):
        rng = random.Random(seed * 1_000_003 + i)
        folder = os.path.join(out, f"{i:04d}")
        os.makedirs(folder)
        small = len(sys.argv) > 5
        case, encode = (ranks_case if rng.random() < 0.3 else sentencepiece_case)(rng, corpus, folder, small)
        texts = TEXTS + [drawn(rng) for _ in range(4 if small else 60)] + ["<|extra_3|>x", "[EOS] y"]
        case["texts"] = [{"text": text, "ids": encode(text)} for text in texts]
        for name, value in {"config.json": {"model_type": "mistral"}, "tokenizer_config.json": case.pop("config"), "expected.json": case}.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                json.dump(value, file)
        if small:
            files = {}
            for name in sorted(os.listdir(folder)):
                with open(os.path.join(folder, name), "rb") as file:
                    content = file.read()
                if name != "expected.json":
                    files[name] = base64.b64encode(content).decode()
            baked.append({"files": files, **case})
    if baked:
        with open(sys.argv[5], "w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in baked) + "\n]\n")


main()
