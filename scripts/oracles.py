"""Reference tokenizers and models for make-golden.

Needs a Python environment with numpy, gguf, tokenizers and sentencepiece (models also: torch,
transformers), which the project itself never needs. Everything here is built from our model
files: vocabulary and merges out of the GGUF, the pre-tokenisers as their publishers'
tokenizer.json states them.

Reference ids are those of plain text: no BOS or EOS, and no special token is looked for in the
text (SentencePiece's own USER_DEFINED pieces are, that is its vocabulary).
"""

import os
from pathlib import Path

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

# name -> (file or folder under the models or vocabularies folder, kind)
TOKENIZERS = {
    "qwen2": ("qwen2.5-coder-0.5b.gguf", "bpe"),
    "smollm": ("smollm2-135m.gguf", "bpe"),
    "llama-bpe": ("ggml-vocab-llama-bpe.gguf", "bpe"),
    "gpt-2": ("ggml-vocab-gpt-2.gguf", "bpe"),
    "gemma": ("embeddinggemma-300m/tokenizer.model", "sentencepiece"),
    "wordpiece": ("minilm-l6/tokenizer.json", "wordpiece"),
    "xlm-r": ("e5-small-q4/sentencepiece.bpe.model", "xlm-r"),
}


def models_dir():
    if folder := os.environ.get("APUD_MODELS"):
        return Path(folder)
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(base) / "apud" / "models"


def vocabularies_dir():
    """Where scripts/fetch-vocabularies puts its files."""
    return models_dir().parent / "vocabularies"


def field(reader, key):
    value = reader.get_field(key)
    if value is None:
        raise SystemExit(f"no {key} in the GGUF file")
    return value.contents()


def pre_tokenizer(name):
    """(normaliser, pre-tokeniser, ignore_merges) as in the tokenizer.json of the family."""
    from tokenizers import Regex, normalizers, pre_tokenizers as pre

    def split(pattern):
        return pre.Sequence(
            [
                pre.Split(Regex(pattern), "isolated"),
                pre.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    if name == "qwen2":
        return normalizers.NFC(), split(QWEN2), False
    if name == "llama-bpe":
        return None, split(LLAMA3), True
    if name == "smollm":
        return (
            None,
            pre.Sequence(
                [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
            ),
            False,
        )
    if name == "gpt-2":
        return None, pre.ByteLevel(add_prefix_space=False), False
    raise SystemExit(f"no reference for pre-tokeniser {name}")


def bpe_encoder(path):
    from gguf import GGUFReader
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    reader = GGUFReader(path)
    tokens, types = field(reader, "tokenizer.ggml.tokens"), field(
        reader, "tokenizer.ggml.token_type"
    )
    normal = 1
    vocab = {token: i for i, (token, kind) in enumerate(zip(tokens, types)) if kind == normal}
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    name = field(reader, "tokenizer.ggml.pre")
    normaliser, pre, ignore_merges = pre_tokenizer(name)
    vocab_only = [m for m in merges if m[0] in vocab and m[1] in vocab and m[0] + m[1] in vocab]
    tokenizer = Tokenizer(BPE(vocab, vocab_only, ignore_merges=ignore_merges))
    if normaliser:
        tokenizer.normalizer = normaliser
    tokenizer.pre_tokenizer = pre
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def sentencepiece_encoder(path):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode


def xlm_r_encoder(path):
    """fairseq ids: SentencePiece's + 1, its <unk> (0) is 3."""
    encode = sentencepiece_encoder(path)
    return lambda text: [i + 1 if i else 3 for i in encode(text)]


def wordpiece_encoder(path):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def encoder(name, vocabularies=None):
    """text -> ids of the tokenizer `name`; `vocabularies` holds the ggml-vocab files."""
    file, kind = TOKENIZERS[name]
    folder = (
        Path(vocabularies or vocabularies_dir()) if file.startswith("ggml-vocab") else models_dir()
    )
    path = folder / file
    if not path.exists():
        raise FileNotFoundError(path)
    make = {
        "bpe": bpe_encoder,
        "sentencepiece": sentencepiece_encoder,
        "xlm-r": xlm_r_encoder,
        "wordpiece": wordpiece_encoder,
    }[kind]
    return make(path)


# --- decoders: transformers in float32 on the weights that the gguf package dequantises ---------------


def halves_layout(weight, heads):
    """Undoes the row order of GGUF `llama` files (rotary pairs beside each other)."""
    rows, columns = weight.shape
    half = rows // heads // 2
    return weight.reshape(heads, half, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def llama3_factor(reader):
    """The scaling factor of Llama 3's rope: what the slowest frequency is divided by."""
    (factors,) = [tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"]
    return float(factors[-1])


def decoder_config(reader, arch, vocab, tied):
    import transformers as hf

    def get(key):
        return field(reader, f"{arch}.{key}")

    common = dict(
        vocab_size=vocab,
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=get("attention.head_count"),
        num_key_value_heads=get("attention.head_count_kv"),
        max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=tied,
    )
    rope = {"rope_type": "default", "rope_theta": get("rope.freq_base")}
    head_dim = reader.get_field(f"{arch}.attention.key_length")
    head_dim = (
        head_dim.contents() if head_dim else common["hidden_size"] // common["num_attention_heads"]
    )
    layers = range(get("block_count"))
    if arch == "llama":
        if any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
            # The file holds the factors only; these are the numbers that they were made from.
            rope |= {
                "rope_type": "llama3",
                "factor": llama3_factor(reader),
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
        return hf.LlamaForCausalLM, hf.LlamaConfig(
            rope_parameters=rope, head_dim=head_dim, **common
        )
    if arch == "qwen2":
        return hf.Qwen2ForCausalLM, hf.Qwen2Config(
            rope_parameters=rope, use_sliding_window=False, **common
        )
    if arch == "qwen3":
        return hf.Qwen3ForCausalLM, hf.Qwen3Config(
            rope_parameters=rope, use_sliding_window=False, head_dim=head_dim, **common
        )
    if arch == "phi3":
        return hf.Phi3ForCausalLM, hf.Phi3Config(
            rope_parameters=rope,
            original_max_position_embeddings=common["max_position_embeddings"],
            sliding_window=None,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **common,
        )
    if arch == "gemma2":  # every second layer slides, the first one too
        kinds = ["full_attention" if i % 2 else "sliding_attention" for i in layers]
        return hf.Gemma2ForCausalLM, hf.Gemma2Config(
            rope_parameters=rope,
            head_dim=head_dim,
            query_pre_attn_scalar=head_dim,
            layer_types=kinds,
            sliding_window=get("attention.sliding_window"),
            attn_logit_softcapping=get("attn_logit_softcapping"),
            final_logit_softcapping=get("final_logit_softcapping"),
            **common,
        )
    if arch == "gemma3":
        # Not in the file: five sliding layers to one full one, local rope base 10,000 (Gemma 3 report).
        local = {"rope_type": "default", "rope_theta": 10000.0}
        kinds = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in layers]
        return hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(
            head_dim=head_dim,
            query_pre_attn_scalar=head_dim,
            layer_types=kinds,
            sliding_window=get("attention.sliding_window"),
            rope_parameters={"full_attention": rope, "sliding_attention": local},
            **common,
        )
    raise SystemExit(f"no reference for architecture {arch}")


def decoder(path):
    """The Hugging Face model of a GGUF file, float32, every parameter assigned from the file."""
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    arch = field(reader, "general.architecture")
    tensors = {t.name: t for t in reader.tensors}

    def weight(name):
        tensor = tensors.pop(name)
        return dequantize(tensor.data, tensor.tensor_type).reshape(
            tuple(int(e) for e in reversed(tensor.shape))
        )

    vocab = int(tensors["token_embd.weight"].shape[1])
    tied = "output.weight" not in tensors
    kind, config = decoder_config(reader, arch, vocab, tied)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = kind(config)
    tensors.pop("rope_freqs.weight", None)
    gemma = arch.startswith("gemma")
    norms = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
    }
    if gemma:
        norms |= {
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        }
    matrices = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_qkv": "self_attn.qkv_proj",
    }
    if arch == "phi3":
        matrices["ffn_up"] = "mlp.gate_up_proj"
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    offset = 1.0 if gemma else 0.0  # the converter stores 1 + w
    state = {
        "model.embed_tokens.weight": weight("token_embd.weight"),
        "model.norm.weight": weight("output_norm.weight") - offset,
    }
    state["lm_head.weight"] = (
        state["model.embed_tokens.weight"] if tied else weight("output.weight")
    )
    for name in list(tensors):
        block, layer, part, suffix = name.split(".")
        target = f"model.layers.{layer}." + {**norms, **matrices}[part] + "." + suffix
        value = weight(name)
        if part in norms:
            value = value - offset
        elif arch == "llama" and part in heads:
            value = halves_layout(value, heads[part])
        state[target] = value
    missing, unexpected = model.load_state_dict(
        {key: torch.from_numpy(value.copy()) for key, value in state.items()},
        strict=False,
        assign=True,
    )
    if missing or unexpected:
        raise SystemExit(f"{path}: missing {missing}, unexpected {unexpected}")
    # Buffers that are computed, not loaded, were on the meta device too.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    if hasattr(model.model.embed_tokens, "embed_scale"):
        embed = model.model.embed_tokens
        embed.embed_scale = torch.tensor(config.hidden_size**0.5)
    return model.eval()
