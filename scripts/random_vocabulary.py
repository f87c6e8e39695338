"""Small real vocabularies and chat templates for scripts/make-random-model.

They are complete: every text can be encoded (all 256 bytes are there), a few hundred merges or pieces
make words, and the rest of a shape's vocabulary is filled with tokens of type UNUSED.
"""

SAMPLE = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they "
    "which one you were all her she there would their we him been has when who will no more if out so up said "
    "what its about than into them can only other time new some could these two may first then do any like my "
    "now over such our man me even most made after also did many off before must well back through years much "
    "where your way down should because long each just state those people too mister how little good world"
)
CHARACTERS = "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者多日都三小军二无同"
NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6


def byte_letters():
    """GPT-2's printable stand-in for every byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {}, 0
    for byte in range(256):
        letters[byte] = chr(byte if byte in plain else 256 + extra)
        extra += byte not in plain
    return letters


def bpe_vocabulary(size, specials):
    """(tokens, types, merges): 256 bytes, then merges that spell the sample's words, then specials."""
    letters = byte_letters()
    tokens, merges = [letters[b] for b in range(256)], []
    known = set(tokens)
    for word in SAMPLE.split():
        for text in (word, " " + word):
            symbols = [letters[b] for b in text.encode()]
            whole = symbols[0]
            for symbol in symbols[1:]:
                if len(tokens) + len(specials) >= size:
                    break
                if whole + symbol not in known:
                    merges.append(f"{whole} {symbol}")
                    tokens.append(whole + symbol)
                    known.add(whole + symbol)
                whole += symbol
    types = [NORMAL] * len(tokens)
    fill = size - len(tokens) - len(specials)
    tokens += [f"[unused{i}]" for i in range(fill)] + specials
    types += [UNUSED] * fill + [CONTROL] * len(specials)
    return tokens, types, merges


def spm_vocabulary(size, first, specials):
    """(tokens, scores, types): specials, bytes, then characters and words with falling scores."""
    tokens = [*first, *specials]
    types = [UNKNOWN if t == "<unk>" else CONTROL for t in tokens]
    tokens += [f"<0x{b:02X}>" for b in range(256)]
    types += [BYTE] * 256
    scores = [0.0] * len(tokens)
    pieces = ["\u2581", *(chr(c) for c in range(33, 127)), *CHARACTERS]
    for word in SAMPLE.split():  # every prefix, so that merging pairs can reach the word
        pieces += ["\u2581" + word[:n] for n in range(1, len(word) + 1)]
    known = set()
    for piece in pieces:
        if piece not in known and len(tokens) < size:
            known.add(piece)
            tokens.append(piece)
            scores.append(-float(len(known)))
            types.append(NORMAL)
    fill = size - len(tokens)
    return (
        tokens + [f"[unused{i}]" for i in range(fill)],
        scores + [-1e4] * fill,
        types + [UNUSED] * fill,
    )


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' "
    "+ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' "
    "else message['role']) + '\\n' + message['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
