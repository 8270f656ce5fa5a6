"""Writes golden.bin: real blocks of every format, and what gguf-py makes of them.

    python3 make.py /path/to/golden/*.gguf

Per format: name (8 bytes, zero-padded), weights (u32), bytes (u32), the bytes, then the weights as f32. Little-endian.
"""
import struct
import sys

import gguf
import numpy as np

WEIGHTS = 512
seen = {}
for path in sorted(sys.argv[1:]):
    for tensor in gguf.GGUFReader(path).tensors:
        name = tensor.tensor_type.name
        if name in seen or int(tensor.shape[0]) % 256 or len(tensor.shape) != 2:
            continue
        elements, size = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
        raw = np.frombuffer(tensor.data.tobytes(), dtype=np.uint8)
        raw = raw[len(raw) // 2 // size * size:][: WEIGHTS // elements * size].copy()
        seen[name] = (raw, gguf.quants.dequantize(raw, tensor.tensor_type).astype(np.float32))

# Blocks of random bytes under sane half-precision scales reach codes and scales that real models leave out.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}
random = np.random.default_rng(7)
floats = random.normal(0, 1, WEIGHTS).astype("<f4")
seen["F32"] = (floats.view(np.uint8), floats)
with open("golden.bin", "wb") as out:
    for name in sorted(seen):
        kinds = [seen[name]]
        if name in HALVES:
            kind = gguf.GGMLQuantizationType[name]
            elements, size = gguf.GGML_QUANT_SIZES[kind]
            raw = random.integers(0, 256, (WEIGHTS // elements, size), dtype=np.uint8)
            for at in HALVES[name]:
                raw[:, at:at + 2] = random.normal(0, 0.01, len(raw)).astype(np.float16).view(np.uint8).reshape(-1, 2)
            raw = raw.reshape(-1)
            kinds.append((raw, gguf.quants.dequantize(raw, kind).astype(np.float32)))
        for raw, weights in kinds:
            out.write(struct.pack("<8sII", name.encode(), len(weights.ravel()), len(raw)))
            out.write(raw.tobytes())
            out.write(weights.ravel().astype("<f4").tobytes())
print(sorted(seen))
