"""A model that says what a test wrote down: write_chain_model(path, chain) makes a GGUF file (llama, one layer, all of
whose matrices are zero) in which every token of `chain` is followed by the next one, whatever came before: the residual
stream holds the last token alone, and the output matrix maps it to its successor. It runs like any other model.

The prompt's last token begins the chain: with the template below a line feed when the model may think, "</think>" when
it may not.
"""
import struct

WIDTH = 512  # every token has a dimension of its own
TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
            "{% if enable_thinking %}{{ '<|im_start|>assistant\\n' }}{% else %}{{ '<|im_start|>assistant<think></think>' }}{% endif %}")
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
U32, F32, TEXT, ARRAY, I32 = 4, 6, 8, 9, 5


def letters():
    """GPT-2's printable stand-in for every byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    out, extra = [], 0
    for byte in range(256):
        out.append(chr(byte if byte in plain else 256 + extra))
        extra += byte not in plain
    return out


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def write_chain_model(path, chain):
    """chain: texts; "\\n" and other single bytes, "<think>", "</think>" and "<|im_end|>" are the tokens of that name,
    any other text becomes a token. None twice. Returns the number of every token of the chain."""
    stand_in = letters()
    special = {"<|im_start|>": CONTROL, "<|im_end|>": CONTROL, "<think>": USER_DEFINED, "</think>": USER_DEFINED}
    spelled = {text: text if text in special else "".join(stand_in[byte] for byte in text.encode()) for text in chain}
    tokens = stand_in + list(special)
    tokens += [word for word in spelled.values() if word not in tokens]
    kinds = [special.get(token, NORMAL) for token in tokens]
    number = {token: i for i, token in enumerate(tokens)}
    assert len(tokens) <= WIDTH and len(set(chain)) == len(chain)

    keys = []

    def key(name, kind, data):
        keys.append(string(name) + struct.pack("<I", kind) + data)

    key("general.architecture", TEXT, string("llama"))
    for name, value in (("block_count", 1), ("context_length", 4096), ("embedding_length", WIDTH), ("feed_forward_length", 64),
                        ("attention.head_count", 8), ("attention.head_count_kv", 8), ("rope.dimension_count", 64),
                        ("vocab_size", len(tokens))):
        key("llama." + name, U32, struct.pack("<I", value))
    key("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5))
    key("llama.rope.freq_base", F32, struct.pack("<f", 10000))
    key("tokenizer.ggml.model", TEXT, string("gpt2"))
    key("tokenizer.ggml.pre", TEXT, string("qwen2"))
    key("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", TEXT, len(tokens)) + b"".join(map(string, tokens)))
    key("tokenizer.ggml.token_type", ARRAY, struct.pack(f"<IQ{len(kinds)}i", I32, len(kinds), *kinds))
    key("tokenizer.ggml.merges", ARRAY, struct.pack("<IQ", TEXT, 0))
    key("tokenizer.ggml.eos_token_id", U32, struct.pack("<I", number["<|im_end|>"]))
    key("tokenizer.chat_template", TEXT, string(TEMPLATE))

    rows = [[0.0] * WIDTH for _ in tokens]
    for row, value in enumerate(rows):
        value[row] = 1.0
    output = [[0.0] * WIDTH for _ in tokens]
    for this, following in zip(chain, chain[1:]):
        output[number[spelled[following]]][number[spelled[this]]] = 4.0

    def zeros(*extents):
        count = 1
        for extent in extents:
            count *= extent
        return extents, bytes(4 * count)

    def matrix(values):
        return (WIDTH, len(values)), b"".join(struct.pack(f"<{WIDTH}f", *row) for row in values)

    ones = (WIDTH,), struct.pack("<f", 1.0) * WIDTH
    tensors = {"token_embd.weight": matrix(rows), "output.weight": matrix(output), "output_norm.weight": ones,
               "blk.0.attn_norm.weight": ones, "blk.0.ffn_norm.weight": ones, "blk.0.ffn_gate.weight": zeros(WIDTH, 64),
               "blk.0.ffn_up.weight": zeros(WIDTH, 64), "blk.0.ffn_down.weight": zeros(64, WIDTH)}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        tensors[f"blk.0.{name}.weight"] = zeros(WIDTH, WIDTH)
    infos, data = b"", b""
    for name, (extents, content) in tensors.items():
        infos += string(name) + struct.pack(f"<I{len(extents)}Q", len(extents), *extents) + struct.pack("<IQ", 0, len(data))
        data += content + bytes(-len(content) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + infos
    with open(path, "wb") as out:
        out.write(head + bytes(-len(head) % 32) + data)
    return {text: number[spelled[text]] for text in chain}
