"""Every way to store a matrix: values in, the tensors of a file and what they mean out. For quantised_configs.py.

Each style draws its settings, says what config.json has, and encodes matrices; what codes and scales mean is written here from the
formats' own definitions, in torch and with their roundings, not with the project's code.
"""

import json

E2M1 = [0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6]
NF4 = [-1, -.6961928009986877, -.5250730514526367, -.39491748809814453, -.28444138169288635, -.18477343022823334,
       -.09105003625154495, 0, .07958029955625534, .16093020141124725, .24611230194568634, .33791524171829224,
       .44070982933044434, .5626170039176941, .7229568362236023, 1]
FP4 = [value / 12 for value in (0, .0625, 8, 12, 4, 6, 2, 3)]
FP4 = FP4 + [-value for value in FP4]


class Unfit(Exception):
    """The format has no such matrices."""


def up(count, step):
    return -(-count // step)


def largest(torch, weight, rows, inputs):
    """Per block the largest magnitude, never 0; and a function that spreads numbers of blocks over values."""
    n, k = weight.shape[-2:]
    r, g = torch.arange(n) // rows, torch.arange(k) // inputs
    padded = torch.zeros(*weight.shape[:-2], up(n, rows) * rows, up(k, inputs) * inputs)
    padded[..., :n, :k] = weight.abs()
    blocks = padded.view(*weight.shape[:-2], up(n, rows), rows, up(k, inputs), inputs).amax((-3, -1)).clamp_min(1e-3)
    return blocks, lambda scales: scales[..., r[:, None], g[None, :]]


def power_of_two(torch, value):
    return torch.exp2(torch.ceil(torch.log2(value)))


def exponents(torch, scales, as_bytes):
    if as_bytes:
        return (torch.log2(scales) + 127).round().to(torch.uint8)
    return scales.to(torch.float8_e8m0fnu)


def nearest(torch, table, values):
    entries = torch.tensor(table)
    return (values[..., None] - entries).abs().argmin(-1)


def pairs(torch, codes, high_first=False):
    a, b = codes[..., 0::2].to(torch.int32), codes[..., 1::2].to(torch.int32)
    return ((a << 4 | b) if high_first else (b << 4 | a)).to(torch.uint8)


def bit_rows(torch, codes, bits):
    """Rows of codes as little-endian streams of bits, in words of 32."""
    rows, count = codes.shape
    stream = (codes[..., None].to(torch.int64) >> torch.arange(bits)) & 1
    flat = torch.zeros(rows, up(count * bits, 32) * 32, dtype=torch.int64)
    flat[:, :count * bits] = stream.reshape(rows, -1)
    words = (flat.view(rows, -1, 32) << torch.arange(32)).sum(-1)
    return words.to(torch.int32)


def compressed(draw, format, weights, activations=None):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"], "quantization_status": "compressed",
            "config_groups": {"group_0": group}}


# --- FP8 -------------------------------------------------------------------------------------------------------------------

def fp8(torch, draw, rows, inputs, scale_type, name, *, shape=None, product=None, power=False, beside=()):
    """name(module): the scales' name. rows, inputs of a block; None for all. product: a type in which to multiply, but float32."""
    def encode(key, weight, model_type):
        n, k = weight.shape[-2:]
        amax, spread = largest(torch, weight, rows or n, inputs or k)
        scales = amax / draw.one(448, 300, 448 * 4)
        if power or scale_type == "bytes":
            scales = power_of_two(torch, scales)
        elif scale_type != "e8m0":
            scales = scales.to(getattr(torch, scale_type)).float()
        stored = exponents(torch, scales, scale_type == "bytes") if scale_type in ("bytes", "e8m0") else scales.to(getattr(torch, scale_type))
        codes = (weight / spread(scales)).clamp(-448, 448).to(torch.float8_e4m3fn)
        own = getattr(torch, scale_type) if product == "scale" else torch.float32
        meant = (codes.to(own) * spread(stored.to(own) if product == "scale" else scales)).to(model_type)
        tensors = {key: codes, name(key): stored if shape is None else stored.reshape(shape(*stored.shape[-2:]))}
        for ending in beside:
            tensors[key.removesuffix(".weight") + ending] = torch.tensor(0.5)
        return tensors, meant
    return encode


def style_fp8_blocks(torch, draw):
    rows, inputs = draw.one((128, 128), (128, 128), (16, 32), (48, 48), (32, 64), (5, 7), (64, 16))
    scale = draw.one("float32", "bfloat16", "float32")
    config = {"quant_method": "fp8", "weight_block_size": [rows, inputs], "activation_scheme": "dynamic", "fmt": "e4m3"}
    if (rows, inputs) == (128, 128) and draw.chance(0.3):
        del config["weight_block_size"]
    return config, fp8(torch, draw, rows, inputs, scale, lambda key: f"{key}_scale_inv")


def style_fp8_powers(torch, draw):
    rows, inputs = draw.one((128, 128), (16, 32), (32, 32))
    config = {"quant_method": "fp8", "weight_block_size": [rows, inputs], "scale_fmt": "ue8m0"}
    if draw.chance(0.5):
        return config, fp8(torch, draw, rows, inputs, "float32", lambda key: f"{key}_scale_inv", power=True)
    return config, fp8(torch, draw, rows, inputs, "e8m0", lambda key: key.removesuffix(".weight") + ".scale", power=True)


def style_fp8_whole(torch, draw):
    shape = draw.one(lambda *_: [], lambda *_: [1])
    config = {"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "static"}
    return config, fp8(torch, draw, None, None, draw.one("float32", "bfloat16"), lambda key: f"{key}_scale_inv", shape=shape,
                       beside=[".activation_scale"])


def style_mxfp8(torch, draw):
    config = {"quant_method": "mxfp8"}
    return config, whole_groups(32, fp8(torch, draw, 1, 32, draw.one("bytes", "e8m0"), lambda key: f"{key}_scale_inv", power=True))


def style_fbgemm(torch, draw):
    return {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, fp8(
        torch, draw, 1, None, "float32", lambda key: f"{key}_scale")


def style_float_quantized(torch, draw):
    strategy = draw.one("channel", "tensor", "block")
    scale = draw.one("float32", "bfloat16", "float16")
    rows, inputs = {"channel": (1, None), "tensor": (None, None), "block": draw.one((128, 128), (16, 32))}[strategy]
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy}
    if strategy == "block":
        weights["block_structure"] = draw.one([rows, inputs], f"{rows}x{inputs}")
    shape = draw.one(lambda *_: [1], lambda *_: [1, 1]) if strategy == "tensor" else None
    activations = draw.one(None, {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True})
    config = compressed(draw, draw.one("float-quantized", "naive-quantized"), weights, activations)
    return config, fp8(torch, draw, rows, inputs, scale, lambda key: f"{key}_scale", shape=shape, product="scale",
                       beside=draw.one([], [".input_scale"]))


def style_modelopt_fp8(torch, draw):
    if draw.chance(0.5):
        return {"quant_method": "modelopt", "quant_algo": "FP8"}, fp8(
            torch, draw, None, None, "float32", lambda key: f"{key}_scale", shape=lambda *_: [], beside=[".input_scale"])
    return {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}, fp8(
        torch, draw, 128, 128, "float32", lambda key: f"{key}_scale", shape=draw.one(None, lambda r, g: [r, 1, g, 1]))


# --- FP4 -------------------------------------------------------------------------------------------------------------------

def whole_groups(size, encode):
    def checked(key, weight, model_type):
        if weight.shape[-1] % size:
            raise Unfit
        return encode(key, weight, model_type)
    return checked


def fp4_groups(torch, draw, names, blocks=False, as_bytes=True, signed=False):
    def encode(key, weight, model_type):
        n, k = weight.shape[-2:]
        amax, spread = largest(torch, weight, 1, 32)
        scales = power_of_two(torch, amax / 6)
        codes = nearest(torch, E2M1, weight / spread(scales))
        meant = (torch.tensor(E2M1)[codes] * spread(scales)).to(model_type)
        packed = pairs(torch, codes)
        if blocks:
            packed = packed.reshape(*weight.shape[:-1], k // 32, 16)
        code_name, scale_name = names(key)
        return {code_name: packed.view(torch.int8) if signed else packed, scale_name: exponents(torch, scales, as_bytes)}, meant
    return whole_groups(32, encode)


def style_mxfp4(torch, draw):
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32}
    return compressed(draw, "mxfp4-pack-quantized", weights), fp4_groups(torch, draw, lambda key: (f"{key}_packed", f"{key}_scale"))


def style_fp4_experts(torch, draw):
    config = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0", "expert_dtype": "fp4"}
    return config, fp4_groups(torch, draw, lambda key: (key, key.removesuffix(".weight") + ".scale"), as_bytes=False, signed=True)


def style_mxfp4_blocks(torch, draw):
    config = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    return config, fp4_groups(torch, draw, lambda key: (f"{key}_blocks", f"{key}_scales"), blocks=True)


def nvfp4(torch, draw, divides):
    def encode(key, weight, model_type):
        amax, spread = largest(torch, weight, 1, 16)
        whole = (amax.max() / 6 / 400).to(torch.float32)
        stored = 1 / whole if divides else whole
        scales = (amax / 6 / whole).clamp(2**-6, 448).to(torch.float8_e4m3fn)
        each = scales.float() / stored if divides else scales.float() * stored
        codes = nearest(torch, E2M1, weight / spread(each))
        meant = (torch.tensor(E2M1)[codes] * spread(each)).to(model_type)
        module = key.removesuffix(".weight")
        if divides:
            return {f"{key}_packed": pairs(torch, codes), f"{key}_scale": scales, f"{key}_global_scale": stored.reshape(1),
                    f"{module}.input_global_scale": torch.tensor([3.0])}, meant
        return {key: pairs(torch, codes), f"{key}_scale": scales, f"{key}_scale_2": stored, f"{module}.input_scale": torch.tensor(.1)}, meant
    return whole_groups(16, encode)


def style_nvfp4_packed(torch, draw):
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}
    return compressed(draw, "nvfp4-pack-quantized", weights), nvfp4(torch, draw, True)


def style_nvfp4_modelopt(torch, draw):
    return {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, nvfp4(torch, draw, False)


# --- whole numbers -----------------------------------------------------------------------------------------------------------

def groups_of(torch, draw, k, size, scattered):
    index = torch.arange(k) // size
    if scattered:
        order = list(range(k))
        draw.random.shuffle(order)
        index = index[torch.tensor(order)]
    return index


def whole_numbers(torch, weight, index, bits, symmetric, scale_type):
    """Unsigned codes [N, K], scales and zeros [N, G]."""
    count = int(index.max()) + 1
    low, high = [], []
    for group in range(count):
        own = weight[:, index == group]
        low.append(own.amin(1).clamp_max(0))
        high.append(own.amax(1).clamp_min(0))
    low, high = torch.stack(low, 1), torch.stack(high, 1)
    top, half = 2**bits - 1, 2**(bits - 1)
    if symmetric:
        scales = (torch.maximum(-low / half, high / max(1, half - 1))).clamp_min(1e-3).to(scale_type)
        zeros = torch.full_like(low, half)
    else:
        scales = ((high - low) / top).clamp_min(1e-3).to(scale_type)
        zeros = (-low / scales.float()).round().clamp(0, top)
    codes = (weight / scales.float()[:, index] + zeros[:, index]).round().clamp(0, top)
    return codes.to(torch.int64), scales, zeros.to(torch.int64)


def style_pack_quantized(torch, draw):
    bits = draw.one(4, 8)
    size = draw.one(None, 16, 32, 64, 128, 24)
    symmetric, scattered = draw.chance(0.5), size is not None and draw.chance(0.3)
    scale_type = getattr(torch, draw.one("bfloat16", "float16", "float32"))
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "channel" if size is None else "group",
               "group_size": draw.one(-1, None) if size is None else size}
    if scattered:
        weights["actorder"] = "group"

    def encode(key, weight, model_type):
        n, k = weight.shape
        index = groups_of(torch, draw, k, size or k, scattered)
        codes, scales, zeros = whole_numbers(torch, weight, index, bits, symmetric, scale_type)
        offset = 2**(bits - 1)
        values = (codes - offset).to(scale_type) - (zeros - offset).to(scale_type)[:, index]
        meant = (values * scales[:, index]).to(model_type)
        tensors = {f"{key}_packed": bit_rows(torch, codes, bits), f"{key}_scale": scales, f"{key}_shape": torch.tensor([n, k])}
        if not symmetric:
            tensors[f"{key}_zero_point"] = bit_rows(torch, zeros.T, bits).T
        if scattered:
            tensors[f"{key}_g_idx"] = index.to(torch.int32)
        elif draw.chance(0.05):
            tensors[f"{key}_g_idx"] = torch.full((k,), -1, dtype=torch.int32)
        return tensors, meant
    return compressed(draw, "pack-quantized", weights), encode


def style_int_quantized(torch, draw):
    symmetric, size = draw.chance(0.6), draw.one(None, None, 32)
    scale_type = getattr(torch, draw.one("bfloat16", "float16", "float32"))
    weights = {"num_bits": 8, "type": "int", "symmetric": symmetric, "strategy": "group" if size else "channel",
               **({"group_size": size} if size else {})}

    def encode(key, weight, model_type):
        index = groups_of(torch, draw, weight.shape[1], size or weight.shape[1], False)
        codes, scales, zeros = whole_numbers(torch, weight, index, 8, symmetric, scale_type)
        values = (codes - 128).to(scale_type) - (zeros - 128).to(scale_type)[:, index]
        tensors = {key: (codes - 128).to(torch.int8), f"{key}_scale": scales}
        if not symmetric:
            tensors[f"{key}_zero_point"] = (zeros - 128).to(torch.int8)
        return tensors, (values * scales[:, index]).to(model_type)
    activations = draw.one(None, {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True})
    return compressed(draw, "int-quantized", weights, activations), encode


def style_gptq(torch, draw):
    bits, size, version = draw.one(2, 3, 4, 4, 8), draw.one(-1, 16, 32, 64, 128), draw.one(1, 1, 2)
    scattered, symmetric = size != -1 and draw.chance(0.4), draw.chance(0.5)
    written = scattered or draw.chance(0.7)
    config = {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": scattered, "sym": symmetric}
    if version == 2 or draw.chance(0.5):
        config["checkpoint_format"] = {1: "gptq", 2: "gptq_v2"}[version]

    def encode(key, weight, model_type):
        n, k = weight.shape
        if n % 32 or k % 32:
            raise Unfit
        index = groups_of(torch, draw, k, size if size > 0 else k, scattered)
        codes, scales, zeros = whole_numbers(torch, weight, index, bits, symmetric, torch.float16)
        if version == 1:
            zeros = zeros.clamp_min(1)  # a stored zero of -1 is read in two ways
        difference = (codes - zeros[:, index]).to(torch.float16)
        meant = (difference * scales[:, index]).to(model_type)
        module = key.removesuffix(".weight")
        tensors = {f"{module}.qweight": bit_rows(torch, codes, bits).T, f"{module}.scales": scales.T,
                   f"{module}.qzeros": bit_rows(torch, (zeros - int(version == 1)).T, bits)}
        if written:
            tensors[f"{module}.g_idx"] = index.to(torch.int32)
        return tensors, meant
    return config, encode


def style_awq(torch, draw):
    size = draw.one(-1, 16, 32, 64, 128)
    config = {"quant_method": "awq", draw.one("bits", "w_bit"): 4, draw.one("group_size", "q_group_size"): size, "zero_point": True,
              "version": draw.one("gemm", "GEMM")}
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def words(values):
        """[rows, N]: nibble i of a word is output order[i] of eight."""
        ordered = values.reshape(values.shape[0], -1, 8)[..., order].reshape(values.shape)
        return bit_rows(torch, ordered, 4)

    def encode(key, weight, model_type):
        n, k = weight.shape
        if n % 8 or size > 0 and k % size:
            raise Unfit
        index = groups_of(torch, draw, k, size if size > 0 else k, False)
        codes, scales, zeros = whole_numbers(torch, weight, index, 4, False, torch.float16)
        meant = ((codes - zeros[:, index]).to(torch.float16) * scales[:, index]).to(model_type)
        module = key.removesuffix(".weight")
        return {f"{module}.qweight": words(codes.T), f"{module}.qzeros": words(zeros.T), f"{module}.scales": scales.T}, meant
    return config, encode


# --- bitsandbytes --------------------------------------------------------------------------------------------------------------

def style_bnb4(torch, draw):
    kind, nested, size = draw.one("nf4", "fp4"), draw.chance(0.4), draw.one(64, 64, 128, 32)
    storage = draw.one("uint8", "uint8", "bfloat16", "float32")
    dtype = draw.one("float32", "float16", "bfloat16")
    table = NF4 if kind == "nf4" else FP4
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested,
              "bnb_4bit_compute_dtype": dtype, "bnb_4bit_quant_storage": storage}

    def encode(key, weight, model_type):
        n, k = weight.shape
        if n * k % 8:
            raise Unfit
        flat = weight.reshape(-1)
        index = torch.arange(n * k) // size
        count = up(n * k, size)
        scales = torch.zeros(count).scatter_reduce(0, index, flat.abs(), "amax").clamp_min(1e-3)
        tensors = {}
        state = {"quant_type": kind, "blocksize": size, "dtype": dtype, "shape": [n, k]}
        if nested:
            offset = scales.mean()
            nested_map = torch.cat([torch.linspace(-1, 1, 255), torch.tensor([1.0])]).sort().values.float()
            blocks = torch.arange(count) // 256
            spread = torch.zeros(up(count, 256)).scatter_reduce(0, blocks, (scales - offset).abs(), "amax").clamp_min(1e-6)
            bytes_ = nearest(torch, nested_map.tolist(), (scales - offset) / spread[blocks]).to(torch.uint8)
            scales = nested_map[bytes_.long()] * spread[blocks] + offset
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset.item()}
            tensors |= {f"{key}.absmax": bytes_, f"{key}.nested_absmax": spread, f"{key}.nested_quant_map": nested_map}
        else:
            tensors[f"{key}.absmax"] = scales
        codes = nearest(torch, table, flat / scales[index])
        meant = (torch.tensor(table)[codes] * scales[index]).to(getattr(torch, dtype)).to(model_type).reshape(n, k)
        packed = pairs(torch, codes, high_first=True).view(getattr(torch, storage)).reshape(-1, 1)
        tensors[f"{key}.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        return {key: packed, f"{key}.quant_map": torch.tensor(table), **tensors}, meant
    return config, encode


def style_bnb8(torch, draw):
    def encode(key, weight, model_type):
        most = weight.abs().amax(1).clamp_min(1e-3)
        codes = (weight * (127 / most[:, None])).round().to(torch.int8)
        module = key.removesuffix(".weight")
        meant = (codes.float() * most[:, None] * torch.tensor(1 / 127)).to(model_type)
        tensors = {key: codes, f"{module}.SCB": most}
        if draw.chance(0.7):
            tensors[f"{module}.weight_format"] = torch.tensor(0, dtype=torch.uint8)
        return tensors, meant
    return {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 6.0}, encode


STYLES = {name.removeprefix("style_"): value for name, value in list(globals().items()) if name.startswith("style_")}
# Those that also store the experts of a layer as one tensor.
FUSED = {"fp8_blocks", "fp8_powers", "mxfp8", "mxfp4_blocks"}
