"""What the tensors of a file mean by their configuration, read as strictly as their makers' tools do. For mutated_stored.py.

The way back of stored_formats.py, written from the formats' definitions: which settings count, which shapes they imply, which names.
"""

import json
import math

from stored_formats import E2M1, FP4, NF4, up


class Refused(Exception):
    """No tool gives a result, or none that one could trust."""


class Stored:
    """One module's tensors, each of which must be there, of a type and a shape."""

    def __init__(self, torch, tensors, key):
        self.torch, self.tensors, self.key, self.module = torch, tensors, key, key.removesuffix(".weight")

    def find(self, *names):
        return next((self.tensors[name] for name in names if name in self.tensors), None)

    def need(self, types, shapes, *names):
        value = self.find(*names)
        if value is None:
            raise Refused(f"no {names[0]}")
        if str(value.dtype).removeprefix("torch.") not in types:
            raise Refused(f"{names[0]} is {value.dtype}")
        if shapes is not None and list(value.shape) not in [list(shape) for shape in shapes]:
            raise Refused(f"{names[0]} is {list(value.shape)}, not {shapes[0]}")
        return value


FLOATS = ("float32", "bfloat16", "float16")


def scheme(config):
    """compressed-tensors' settings of the one group of modules; nothing where none are said."""
    return config.get("config_groups", {}).get("group_0", {}).get("weights", {})


def in_blocks(torch, scales, n, k, rows, inputs):
    return scales.reshape(up(n, rows), up(k, inputs))[torch.arange(n)[:, None] // rows, torch.arange(k)[None, :] // inputs]


def powers(torch, scales):
    number = scales.to(torch.int32) if scales.dtype == torch.uint8 else scales.view(torch.uint8).to(torch.int32)
    return torch.where(number == 255, math.nan, torch.exp2(number.double() - 127)).float()


def fp8(stored, config, n, k):
    torch = stored.torch
    method = config["quant_method"]
    codes = stored.need(("float8_e4m3fn",), [(n, k)], stored.key)
    blocks, own = [], False
    if method == "fp8":
        size = config.get("weight_block_size", [128, 128])
        blocks = [size] if size else []
    elif method == "mxfp8":
        blocks = [[1, 32]]
    elif method == "modelopt":
        blocks = [[128, 128]] if config.get("quant_algo") == "FP8_PB_WO" else []
    elif method == "compressed-tensors":
        own = True
        structure = scheme(config).get("block_structure")
        blocks = [[int(size) for size in (structure.split("x") if isinstance(structure, str) else structure)]] if structure else []
    scales = stored.find(f"{stored.key}_scale_inv", f"{stored.key}_scale", f"{stored.module}.scale")
    if scales is None:
        raise Refused("no scales")
    shape = [size for place, size in enumerate(scales.shape) if not (scales.dim() == 4 and place % 2 == 1 and size == 1)]
    if scales.dtype in (torch.uint8, torch.float8_e8m0fnu):
        values = powers(torch, scales)
        blocks = [*blocks, [1, 32]]
    elif str(scales.dtype).removeprefix("torch.") in FLOATS:
        values = scales
    else:
        raise Refused(f"scales are {scales.dtype}")
    for rows, inputs in blocks:
        if shape == [up(n, rows), up(k, inputs)]:
            break
    else:
        if scales.numel() == 1:
            rows, inputs = n, k
        elif shape in ([n, 1], [n]):
            rows, inputs = 1, k
        else:
            raise Refused(f"scales are {shape}")
    product = values.dtype if own and values.dtype != torch.float32 else torch.float32
    return codes.to(product) * in_blocks(torch, values.to(product), n, k, rows, inputs)


def halves(torch, packed):
    return torch.stack([packed.view(torch.uint8) & 15, packed.view(torch.uint8) >> 4], -1).flatten(-2).long()


def fp4(stored, config, n, k):
    torch = stored.torch
    table = torch.tensor(E2M1)
    if stored.find(f"{stored.key}_packed") is not None:
        names, scale = f"{stored.key}_packed", f"{stored.key}_scale"
    else:
        names, scale = stored.key, (f"{stored.key}_scale" if f"{stored.key}_scale" in stored.tensors else f"{stored.module}.scale")
    packed = stored.need(("uint8", "int8"), [(n, k // 2)], names)
    values = table[halves(torch, packed)]
    if stored.find(scale) is not None and stored.find(scale).dtype == torch.float8_e4m3fn:
        scales = stored.need(("float8_e4m3fn",), [(n, k // 16)], scale).float()
        if packed.dtype != torch.uint8:
            raise Refused("codes of NVFP4 are U8")
        if names.endswith("_packed"):
            scales = scales / stored.need(("float32",), [(1,), (), (1, 1)], f"{stored.key}_global_scale").reshape(())
        else:
            scales = scales * stored.need(("float32",), [(1,), (), (1, 1)], f"{stored.key}_scale_2").reshape(())
        return values * in_blocks(torch, scales, n, k, 1, 16)
    scales = stored.need(("uint8", "float8_e8m0fnu"), [(n, k // 32)], scale)
    return values * in_blocks(torch, powers(torch, scales), n, k, 1, 32)


def unpacked(torch, words, count, bits):
    """Rows of words as rows of codes."""
    stream = (words[..., None].to(torch.int64) >> torch.arange(32)) & 1
    stream = stream.reshape(words.shape[0], -1)[:, :count * bits].reshape(words.shape[0], count, bits)
    return (stream << torch.arange(bits)).sum(-1)


def index_of(stored, name, k, size, count, unused):
    torch = stored.torch
    if stored.find(name) is None:
        return torch.arange(k) // size
    index = stored.need(("int32",), [(k,)], name)
    if unused(index):
        return torch.arange(k) // size
    if index.min() < 0 or index.max() >= count:
        raise Refused("groups that are not there")
    return index.long()


def packed(stored, config, n, k):
    torch = stored.torch
    weights = scheme(config)
    bits, size = weights["num_bits"], weights.get("group_size")
    if weights.get("type", "int") != "int" or bits not in (4, 8):
        raise Refused("another width")
    size = k if size in (None, -1) else size
    count = up(k, size)
    words = stored.need(("int32",), [(n, up(k * bits, 32))], f"{stored.key}_packed")
    scales = stored.need(FLOATS, [(n, count)], f"{stored.key}_scale")
    told = stored.find(f"{stored.key}_shape")
    if told is not None and (told.dtype != torch.int64 or told.tolist() != [n, k]):
        raise Refused("another shape")
    index = index_of(stored, f"{stored.key}_g_idx", k, size, count, lambda groups: bool((groups == -1).any()))
    values = (unpacked(torch, words, k, bits) - 2**(bits - 1)).to(scales.dtype)
    if not weights.get("symmetric", True):
        zeros = stored.need(("int32",), [(up(n * bits, 32), count)], f"{stored.key}_zero_point")
        values = values - (unpacked(torch, zeros.T, n, bits).T - 2**(bits - 1)).to(scales.dtype)[:, index]
    return values * scales[:, index]


def bytes_(stored, config, n, k):
    torch = stored.torch
    weights = scheme(config)
    size = weights.get("group_size")
    size = k if size in (None, -1) else size
    codes = stored.need(("int8",), [(n, k)], stored.key)
    scales = stored.need(FLOATS, [(n, up(k, size))], f"{stored.key}_scale")
    index = torch.arange(k) // size
    values = codes.to(scales.dtype)
    if not weights.get("symmetric", True):
        values = values - stored.need(("int8",), [scales.shape], f"{stored.key}_zero_point").to(scales.dtype)[:, index]
    return values * scales[:, index]


def gptq(stored, config, n, k):
    torch = stored.torch
    bits, size = config["bits"], config.get("group_size", 128)
    if bits not in (2, 3, 4, 8):
        raise Refused("another width")
    size = k if size == -1 else size
    count = up(k, size)
    words = stored.need(("int32",), [(up(k * bits, 32), n)], f"{stored.module}.qweight")
    scales = stored.need(("float16",), [(count, n)], f"{stored.module}.scales")
    zero_words = stored.need(("int32",), [(count, up(n * bits, 32))], f"{stored.module}.qzeros")
    form = config.get("checkpoint_format", config.get("format", "gptq"))
    if form not in ("gptq", "gptq_v2"):
        raise Refused("another format")
    if form == "gptq" and bits != 3:
        one = sum(1 << place for place in range(0, 32, bits))
        zero_words = ((zero_words.to(torch.int64) + one) & 0xFFFFFFFF)
    zeros = unpacked(torch, zero_words, n, bits)
    if form == "gptq" and bits == 3:
        zeros = (zeros + 1) & 7
    index = index_of(stored, f"{stored.module}.g_idx", k, size, count, lambda groups: bool((groups == -1).all()))
    codes = unpacked(torch, words.T, k, bits)
    return (codes - zeros.T[:, index]).to(torch.float16) * scales.T[:, index]


def awq(stored, config, n, k):
    torch = stored.torch
    size = config.get("group_size", config.get("q_group_size", 128))
    if config.get("bits", config.get("w_bit", 4)) != 4 or config.get("version", "gemm").lower() != "gemm":
        raise Refused("another width or layout")
    size = k if size == -1 else size
    places = [0, 4, 1, 5, 2, 6, 3, 7]

    def plain(words):
        return unpacked(torch, words, n, 4).reshape(words.shape[0], -1, 8)[..., places].reshape(words.shape[0], n)
    codes = plain(stored.need(("int32",), [(k, n // 8)], f"{stored.module}.qweight"))
    zeros = plain(stored.need(("int32",), [(up(k, size), n // 8)], f"{stored.module}.qzeros"))
    scales = stored.need(("float16",), [(up(k, size), n)], f"{stored.module}.scales")
    index = torch.arange(k) // size
    return ((codes - zeros[index]).to(torch.float16) * scales[index]).T


def bnb4(stored, config, n, k):
    torch, key = stored.torch, stored.key
    kind = next((kind for kind in ("nf4", "fp4") if f"{key}.quant_state.bitsandbytes__{kind}" in stored.tensors), None)
    if kind is None:
        raise Refused("no state")
    try:
        state = json.loads(bytes(stored.tensors[f"{key}.quant_state.bitsandbytes__{kind}"].view(torch.uint8).tolist()))
    except Exception as error:
        raise Refused("no JSON") from error
    if state.get("shape") != [n, k] or state.get("quant_type") != kind or state.get("dtype") not in FLOATS:
        raise Refused("of another matrix")
    raw = stored.find(key)
    if raw is None or raw.numel() * raw.element_size() != n * k // 2:
        raise Refused("codes of another size")
    flat = raw.contiguous().reshape(-1).view(torch.uint8)
    codes = torch.stack([flat >> 4, flat & 15], -1).flatten().long()
    size = state["blocksize"]
    count = up(n * k, size)
    scales = stored.need(("float32", "uint8"), [(count,)], f"{key}.absmax")
    table = stored.need(("float32",), [(16,)], f"{key}.quant_map")
    if not torch.allclose(table, torch.tensor(NF4 if kind == "nf4" else FP4)):
        raise Refused("another table")
    if scales.dtype == torch.uint8:
        inner = stored.need(("float32",), [(256,)], f"{key}.nested_quant_map")
        each = stored.need(("float32",), [(up(count, 256),)], f"{key}.nested_absmax")
        scales = inner[scales.long()] * each[torch.arange(count) // 256] + state["nested_offset"]
    return (table[codes] * scales[torch.arange(n * k) // size]).to(getattr(torch, state["dtype"])).reshape(n, k)


def bnb8(stored, config, n, k):
    layout = stored.find(f"{stored.module}.weight_format")
    if layout is not None and layout.reshape(-1).view(stored.torch.uint8)[0] != 0:
        raise Refused("another order")
    codes = stored.need(("int8",), [(n, k)], stored.key)
    scales = stored.need(("float32",), [(n,), (n, 1)], f"{stored.module}.SCB")
    return codes.float() * scales.reshape(n, 1) * stored.torch.tensor(1 / 127)


READERS = {"fp8_blocks": fp8, "fp8_powers": fp8, "fp8_whole": fp8, "mxfp8": fp8, "fbgemm": fp8, "float_quantized": fp8,
           "modelopt_fp8": fp8, "mxfp4": fp4, "fp4_experts": fp4, "nvfp4_packed": fp4, "nvfp4_modelopt": fp4,
           "pack_quantized": packed, "int_quantized": bytes_, "gptq": gptq, "awq": awq, "bnb4": bnb4, "bnb8": bnb8}
