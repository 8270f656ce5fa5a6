"""Writes the seeds: small good inputs, so that a minute of fuzzing begins behind the first checks. Run it here: python3 make.py"""

import struct
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
PACK = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def value(kind, x):
    if kind == STRING:
        data = x if isinstance(x, bytes) else x.encode()
        return struct.pack("<Q", len(data)) + data
    if kind == ARRAY:
        element, items = x
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, i) for i in items)
    return struct.pack("<" + PACK[kind], x)


def gguf(pairs, tensors=(), version=3):
    """`pairs`: (key, type, value); `tensors`: (name, dims, type, bytes of data)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    for key, kind, x in pairs:
        out += value(STRING, key) + struct.pack("<I", kind) + value(kind, x)
    offset, data = 0, b""
    for name, dims, kind, size in tensors:
        out += value(STRING, name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        out += struct.pack("<IQ", kind, offset)
        padded = -size % 32 + size
        data, offset = data + bytes(padded), offset + padded
    return (out + bytes(-len(out) % 32) + data) if tensors else out


def byte_texts():
    """GPT-2's letters for the 256 bytes. Source: openai/gpt-2 `encoder.py` describes the mapping."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {}, 256
    for b in range(256):
        letters[b] = chr(b) if b in plain else chr(extra)
        extra += b not in plain
    return [letters[b] for b in range(256)]


def chat(open_, close):
    return ("{% for m in messages %}" + open_ + "{{ m['role'] }}\n{{ m['content'] | trim }}" + close
            + "{% endfor %}{% if add_generation_prompt %}" + open_ + "assistant\n{% endif %}")


def bpe(pre):
    tokens, merges = byte_texts(), ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or"]
    tokens += [merge.replace(" ", "") for merge in merges]
    special = ["<|im_start|>", "<|im_end|>"]
    kinds = [1] * len(tokens) + [3, 3]
    tokens += special
    return gguf([
        ("general.architecture", STRING, "llama"),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, pre),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, kinds)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, merges)),
        ("tokenizer.ggml.bos_token_id", U32, len(tokens) - 2),
        ("tokenizer.ggml.eos_token_id", U32, len(tokens) - 1),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.chat_template", STRING, chat("<|im_start|>", "<|im_end|>\n")),
    ])


def spm():
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    kinds = [2, 3, 3] + [6] * 256
    words = ["▁", "h", "e", "l", "o", "he", "ll", "hell", "hello", "▁hello", "▁w", "or", "é"]
    tokens, kinds = tokens + words, kinds + [1] * len(words)
    return gguf([
        ("general.architecture", STRING, "llama"),
        ("tokenizer.ggml.model", STRING, "llama"),
        ("tokenizer.ggml.pre", STRING, "default"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.scores", ARRAY, (F32, [0.0] * 259 + [-float(i) for i in range(len(words))])),
        ("tokenizer.ggml.token_type", ARRAY, (I32, kinds)),
        ("tokenizer.ggml.bos_token_id", U32, 1),
        ("tokenizer.ggml.eos_token_id", U32, 2),
        ("tokenizer.ggml.unknown_token_id", U32, 0),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.chat_template", STRING, chat("[INST]", "[/INST]")),
    ])


def every_type(version):
    scalars = [(U8, 1), (I8, -1), (U16, 2), (I16, -2), (U32, 3), (I32, -3), (F32, 0.5), (BOOL, True), (STRING, "é"),
               (U64, 4), (I64, -4), (F64, 0.25)]
    pairs = [("general.alignment", U32, 32)]
    pairs += [(f"scalar.{kind}", kind, x) for kind, x in scalars]
    pairs += [(f"array.{kind}", ARRAY, (kind, [x, x, x])) for kind, x in scalars]
    pairs += [("nested", ARRAY, (ARRAY, [(U8, [1, 2]), (STRING, ["a", ""])])), ("empty", ARRAY, (F32, []))]
    # (ggml type, weights in a quant block, bytes of it)
    kinds = [(0, 1, 4), (1, 1, 2), (30, 1, 2), (2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24), (8, 32, 34), (10, 256, 84),
             (11, 256, 110), (12, 256, 144), (13, 256, 176), (14, 256, 210), (20, 32, 18), (23, 256, 136)]
    tensors = [(f"t{kind}.weight", (weights, 2), kind, 2 * size) for kind, weights, size in kinds]
    return gguf(pairs, tensors, version)


def frame(kind, body):
    return bytes([kind]) + varint(len(body)) + body


def varint(n):
    return bytes([n]) if n < 64 else struct.pack(">H", 0x4000 | n)


def field(number, body):
    return bytes([number << 3 | 2]) + bytes([len(body)]) + body


def streams():
    """First byte: role of the stream (see the target); second: bytes of each piece."""
    hello = frame(0x01, field(1, b"seed") + bytes([0x10, 32]) + field(4, b"demo"))
    ping, grease = frame(0x22, b"12345678"), varint(0x1F + 0x21) + varint(3) + b"abc"
    message = field(1, b"user") + field(2, b"hello")
    generate = field(1, bytes(range(16))) + field(5, field(1, message)) + bytes([0x30, 16]) + field(10, b"stop")
    first = frame(0x11, bytes([0, 1, 1, 0x41, 6, 4]) + b" the")
    second = frame(0x11, bytes([1, 1, 0, 2]) + b"re")
    done = frame(0x12, bytes([0x08, 1]) + field(2, bytes([0x08, 5, 0x10, 2])))
    error = frame(0x1F, bytes([0x08, 1, 0x10, 100, 0x18, 1]) + field(4, b"no place"))
    accepted = frame(0x10, bytes([0x08, 7]))
    return {
        "client_control": bytes([0, 255]) + hello + ping + grease + frame(0x23, b"12345678"),
        "server_control": bytes([1, 3]) + hello + frame(0x20, bytes([0x08, 8, 0x10, 9])) + ping,
        "request": bytes([2, 5]) + grease + frame(0x02, generate),
        "answer": bytes([3, 1]) + accepted + first + second + grease + done,
        "refused": bytes([3, 255]) + error,
        "gap": bytes([3, 2]) + second,
    }


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def segment(records):
    """`docs/spool-format.md`. The digest in the footer is not looked at by a reader of frames."""
    header = b"OUTSPOOL" + struct.pack("<HBBI", 1, 1, 1, 256) + bytes([1]) * 16 + bytes([2]) * 16
    header += struct.pack("<QQQQ", 7, 100, 3, 0) + bytes(8 + 32 + 48)
    header = header.ljust(252, b"\0")
    checksum = struct.pack("<I", crc32c(header))
    out = header + checksum
    for number, length in enumerate(records, 100):
        ciphertext = bytes([number]) * (length + 16)
        head = b"OFRM" + struct.pack("<IQ", len(ciphertext), number)
        out += head + struct.pack("<II", crc32c(checksum + head + ciphertext), 0) + ciphertext
        out += bytes(-len(out) % 8)
    footer = b"OEND" + struct.pack("<IQQQ", len(records), 100, 99 + len(records), len(out)) + bytes(32) + checksum
    return out + (footer + struct.pack("<I", crc32c(footer))).ljust(80, b"\0")


def message(number, body):
    body = field(number, body)
    return struct.pack("<I", len(body)) + body


def code(symbols):
    """`wire/src/code.rs`: seven groups of five symbols, each with a check symbol."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    groups = []
    for place in range(7):
        check, group = place + 1, symbols[place * 5:place * 5 + 5]
        for symbol in [*group, 0]:
            check = check << 1 ^ (0b100101 if check & 16 else 0) ^ symbol
        groups.append("".join(alphabet[s] for s in [*group, check]))
    return "-".join(groups).encode()


def uplink():
    """The first byte says what follows; see the target."""
    epoch = field(1, bytes([5]) * 16)
    hello = epoch + bytes([0x10, 3]) + field(3, bytes([9]) * 16) + field(4, b"outstation/0") + field(13, b"disk full")
    offer = epoch + bytes([0x10, 1, 0x18, 7, 0x20, 0x80, 0x08]) + field(5, bytes([6]) * 32)
    whole = segment([0, 5, 100])
    return {
        "hello": bytes([0]) + message(1, hello),
        "offer": bytes([0]) + message(2, offer),
        "welcome": bytes([1]) + message(1, bytes([0x08, 7, 0x10, 1, 0x18, 60])),
        "stored": bytes([1]) + message(3, field(1, bytes([6]) * 32) + bytes([0x10, 9]) + field(3, b"seg/v1/x")),
        "refused": bytes([1]) + message(5, bytes([0x08, 4]) + field(2, b"another machine") + bytes([0x18, 100])),
        "segment": bytes([2]) + whole,
        "segment_damaged": bytes([2]) + whole[:300] + b"x" + whole[301:],
        "segment_cut": bytes([2]) + whole[:-90],
        "code": bytes([3]) + code(list(range(32)) + [1, 2, 3]),
    }


def write(target, files):
    folder = Path(__file__).parent / target
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        print(f"{target}/{name}: {len(data)} bytes")


vocabularies = {"bpe_llama3": bpe("llama-bpe"), "bpe_gpt2": bpe("gpt-2"), "bpe_qwen2": bpe("qwen2"), "spm": spm()}
write("frame", streams())
write("gguf", {"every_type_v2": every_type(2), "every_type_v3": every_type(3), "spm": vocabularies["spm"]})
write("tokenizer", vocabularies)
write("uplink", uplink())
