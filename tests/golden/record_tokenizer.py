#!/usr/bin/env python3
"""Records what HF tokenizers does, for tests/golden/test_tokenizer.c.

    python3 -m venv env && env/bin/pip install -r requirements.txt
    env/bin/python record_tokenizer.py

Nothing is downloaded: texts are generated from a seed, tokenizers are trained on them with the
settings of the real families. Written to tokenizer/ (all numbers LEB128 unless said otherwise):

    lines.bin         n, then per line: length, bytes (may be invalid UTF-8)
    <family>.json     the tokenizer
    <family>.bin      step, then for every step-th line (text = bytes, errors="replace"):
                        n, ids                        encode without special tokens
                        n_before, ids, n_after, ids   what special tokens add in front and behind
                        twice a text                  decode(all ids), then with skip_special
                      n_lists, then per list: n, ids, twice a text
                      n_hashes, then a hash each of the ids (i32, little-endian) of long_texts()
                        and sweep_texts(): every code point there is
    variants.json     the tokenizer that variants.jsonl changes, one a line:
                        {"name", "normalizer", "pre_tokenizer", "decoder"}
    variants.bin      for each of them what is in a <family>.bin
    a text is 0 (same as the line), or 1 and a hash of its UTF-8; a hash is FNV-1a, u64 little-endian
"""
import collections
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers import processors, trainers
import tokenizers

assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
HERE = pathlib.Path(__file__).parent / "tokenizer"
SWEEP_STEP = 4096
rng = random.Random(20240607)

# --- Texts -------------------------------------------------------------------------------------

BLOCKS = [  # first, last: a block or a stretch of one
    (0x00A1, 0x00FF), (0x0100, 0x024F), (0x0250, 0x02AF), (0x02B0, 0x02FF), (0x0370, 0x03FF),
    (0x0400, 0x052F), (0x0531, 0x058A), (0x0591, 0x05F4), (0x0600, 0x06FF), (0x0700, 0x074F),
    (0x0780, 0x07B1), (0x0900, 0x097F), (0x0980, 0x09FE), (0x0A01, 0x0A76), (0x0B82, 0x0BFA),
    (0x0C00, 0x0C7F), (0x0D00, 0x0D7F), (0x0E01, 0x0E5B), (0x0E81, 0x0EDF), (0x0F00, 0x0FDA),
    (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137C), (0x13A0, 0x13FD),
    (0x1400, 0x167F), (0x1680, 0x169C), (0x1780, 0x17F9), (0x1800, 0x18AA), (0x1E00, 0x1EFF),
    (0x1F00, 0x1FFE), (0x2000, 0x206F), (0x2070, 0x209C), (0x20A0, 0x20C0), (0x2100, 0x214F),
    (0x2150, 0x218B), (0x2190, 0x21FF), (0x2200, 0x22FF), (0x2460, 0x24FF), (0x2500, 0x257F),
    (0x2580, 0x259F), (0x2600, 0x26FF), (0x2700, 0x27BF), (0x2C00, 0x2C5F), (0x2E80, 0x2FD5),
    (0x3000, 0x303F), (0x3041, 0x309F), (0x30A0, 0x30FF), (0x3105, 0x312F), (0x3131, 0x318E),
    (0x3200, 0x33FF), (0x4E00, 0x4FFF), (0x9000, 0x90FF), (0xA000, 0xA0FF), (0xA640, 0xA69F),
    (0xA720, 0xA7FF), (0xAC00, 0xACFF), (0xF900, 0xFAFF), (0xFB00, 0xFB4F), (0xFB50, 0xFDFF),
    (0xFE00, 0xFE4F), (0xFE70, 0xFEFF), (0xFF01, 0xFFEF), (0x10000, 0x1007F), (0x10330, 0x1034A),
    (0x10400, 0x1044F), (0x11000, 0x1106F), (0x12000, 0x120FF), (0x13000, 0x130FF),
    (0x1D100, 0x1D1FF), (0x1D400, 0x1D7FF), (0x1E900, 0x1E95F), (0x1F100, 0x1F1FF),
    (0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x1F680, 0x1F6FF), (0x1F900, 0x1F9FF),
    (0x20000, 0x200FF), (0x30000, 0x300FF), (0xE0020, 0xE007F), (0xE000, 0xE0FF),
]
SYLLABLES = "ka lo mi ta re su no vi pel tor an ing est qu ier ough th sh ent al ea ous".split()
EMOJI = ["\U0001F469\u200D\U0001F4BB", "\U0001F468\u200D\U0001F469\u200D\U0001F467", "\u2764\uFE0F",
         "\U0001F44D\U0001F3FD", "\U0001F1E9\U0001F1EA", "\U0001F3F4\u200D\u2620\uFE0F", "\U0001F600",
         "\u0031\uFE0F\u20E3", "\U0001F3F3\uFE0F\u200D\U0001F308", "\U0001FAE0", "\u263A"]
ODD = ["'\u017F", "'S", "'LL", "'\u017Fs", "\u212A", "\u0130", "\u0131", "\u1E9E", "\u00DF", "\uFB01", "e\u0301",
       "\u00E9", "A\u030A", "\u212B", "\u1100\u1161\u11A8", "\uAC01", "q\u0307\u0323", "q\u0323\u0307", "\u0958",
       "\uFDFA", "\u2126", "\u00BD", "\u2460", "\u3392", "\u2581", "\u2581\u2581", "\u0120", "\u0120a", "<0x41>", "<0xE2>",
       "<0x+a>", "\u00AD", "\u200B", "\u200D", "\uFEFF", "\u202E", "\u180E", "\u0085", "\u00A0", "\u2028", "\u2029",
       "\u3000", "\x1C", "\x1F", "\u0000", "\x7F", "\uFFFD", "\uFFFE", "\U0010FFFF", "\u05D0\u05B7", "\u0E01\u0E33",
       "\u0344", "\u0F73", "\U0001D15E", "\u1E9B\u0323", "\u0390", "\u03A3\u03B1\u03C2", "\u01C5", "\u32FF"]
CODE = ["for (int i = 0; i < n; i++) {", "    return x->y[i] * 0x1F;", "def f(a, *b, **kw):", "\t\tif a != b:",
        "#include <stdio.h>", "SELECT * FROM t WHERE a>=1.5e-3;", "</div><p class=\"x\">", "a&&b||!c^~d",
        "https://example.org/a?b=c&d=%20#e", "C:\\dir\\file.txt", "{\"k\": [1, 2.0, null]}", "$x = @{y}; `cmd`",
        "/* comment */ // other", "x_1__y2 = snake_case + CamelCase42", "!!!???...---", "\"quoted\" 'single'"]
ADDED = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|reserved_0|>", "<s>",
         "</s>", "<unk>", "<pad>", "[MASK]", "[MASKED]", "<left>", "<right>", "<both>", "word", "keyword",
         "Caf\u00E9", "Cafe\u0301", "NORM", "norm", "two words", "  ", "\u4F60\u597D", "<|", "|>"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\u00A0", "\u3000", "\v", "\f", ""]


def latin_word():
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4)))
    word = rng.choice([word, word, word, word.capitalize(), word.upper()])
    return word + rng.choice(["", "", "", "'s", "'re", "'LL", "n't", "'d", ",", ".", "?", "!", "-", ":"])


def block_word():
    first, last = rng.choice(BLOCKS)
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 8)))


def number():
    return rng.choice(["%d" % rng.randint(0, 10 ** rng.randint(1, 12)), "%.3f" % rng.random(),
                       "1,234,567", "-%d" % rng.randint(0, 99), "%x" % rng.randint(0, 1 << 30)])


def any_character():
    while True:
        code = rng.choice([rng.randint(0, 0x2FF), rng.randint(0, 0xFFFF), rng.randint(0, 0x10FFFF)])
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)


def added():
    token = rng.choice(ADDED)
    return rng.choice([token, token, token, token * 2, token[:-1], token[1:], token.upper(),
                       "x" + token, token + "x", " " + token, token + "  ", "_" + token, token + "."])


def spaces():
    if rng.random() < 0.9:
        return " "
    return rng.choice(SPACES) * rng.choice([1, 1, 2, 3, rng.randint(4, 40)])


def plain_line():
    kinds = [latin_word] * 10 + [number] * 2
    return " ".join(rng.choice(kinds)() for _ in range(rng.randint(3, 14)))


def mixed_line():
    kinds = [latin_word, block_word, block_word, number, lambda: rng.choice(EMOJI), lambda: rng.choice(ODD),
             lambda: rng.choice(CODE), added, any_character]
    out = []
    for _ in range(rng.randint(1, 7)):
        out += [rng.choice(kinds)(), spaces() if rng.random() < 0.7 else ""]
    return (spaces() if rng.random() < 0.3 else "") + "".join(out)


def added_line():
    out = []
    for _ in range(rng.randint(1, 6)):
        out += [rng.choice([added, added, latin_word, spaces, lambda: rng.choice(ODD)])(),
                rng.choice(["", "", " ", spaces()])]
    return "".join(out)


def broken_line():
    """Bytes that are not UTF-8: cut and overlong sequences, surrogates, stray bytes."""
    data = bytearray(mixed_line().encode())
    bad = [b"\x80", b"\xFF", b"\xC0\xAF", b"\xE0\x80\xAF", b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"\xE2\x82",
           b"\xF0\x9F\x98", b"\xF0\x9F", b"\xC3", b"\xE2\x28\xA1", b"\xF8\x88\x80\x80\x80"]
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(data))
        data[at:at] = rng.choice(bad)
    if rng.random() < 0.3:
        del data[-1:]
    return bytes(data)


def make_lines():
    lines = [b"", b" ", b"  ", b"\n", b"a", b"\x00", "\u2581".encode(), b" a", b"a ", b"  a  b  "]
    lines += [t.encode() for t in ADDED + ODD + EMOJI + CODE]
    lines += [block_word().encode() for _ in range(300)]
    lines += [plain_line().encode() for _ in range(400)]
    lines += [mixed_line().encode() for _ in range(1600)]
    lines += [added_line().encode() for _ in range(800)]
    lines += [broken_line() for _ in range(250)]
    return lines


def long_texts():
    """Runs without a boundary; test_tokenizer.c builds the same."""
    return ["a" * 100000, "ab" * 50000, " " * 100000, "\n" * 30000, "\u00E9" * 50000, "0" * 50000,
            "the " * 25000, "\U0001F600" * 20000, "-" * 60000 + "x", " \n" * 30000 + "x"]


def sweep_texts():
    """Every code point, each between letters and after a space."""
    for first in range(0, 0x110000, SWEEP_STEP):
        points = [c for c in range(first, first + SWEEP_STEP) if not 0xD800 <= c <= 0xDFFF]
        if points:
            yield "".join("a" + chr(c) + " " + chr(c) for c in points)


# --- Families ----------------------------------------------------------------------------------

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
          r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PUNCTUATED = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
              r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def limited(n):
    """The training text in its n most frequent characters. (The trainer's own limit_alphabet breaks
    ties by chance.)"""
    counts = collections.Counter("".join(TRAINING))
    kept = set(sorted(counts, key=lambda c: (-counts[c], c))[:n])
    return ["".join(c for c in text if c in kept) for text in TRAINING]


def byte_level_tokenizer(pre_tokenizer, size, **model):
    """Byte-level BPE trained on the lines; specials behind the vocabulary."""
    tok = Tokenizer(models.BPE(**model))
    tok.pre_tokenizer = pre_tokenizer
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(TRAINING, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre.ByteLevel.alphabet()))
    return tok


def split_then_bytes(pattern):
    return pre.Sequence([pre.Split(Regex(pattern), "isolated"), pre.ByteLevel(False, True, False)])


def with_template(tok, before=(), after=()):
    pieces = [*before, "$A", *after]
    specials = [(t, tok.token_to_id(t)) for t in (*before, *after)]
    return processors.TemplateProcessing(single=pieces, pair=[*pieces, "$B"], special_tokens=specials)


def llama3():
    tok = byte_level_tokenizer(split_then_bytes(LLAMA3), 1200, ignore_merges=True)
    tok.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_0|>",
                            "<|start_header_id|>", "<|eot_id|>"])
    tok.post_processor = processors.Sequence([processors.ByteLevel(True, False),
                                              with_template(tok, ["<|begin_of_text|>"])])
    return tok


def llama2_model(size):
    """Characters, bytes and merges; unknown, begin and end come first as in the real one."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.pre_tokenizer = pre.Metaspace(split=True)
    specials = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    tok.train_from_iterator(limited(400), trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, show_progress=False))
    made = json.loads(tok.to_str())
    made["added_tokens"] = made["added_tokens"][:3]
    made["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(made))


def metaspace_decoder(strip=True):
    chain = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(chain + ([decoders.Strip(" ", 1, 0)] if strip else []))


def llama2():
    tok = llama2_model(1500)
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tok.decoder = metaspace_decoder()
    tok.post_processor = with_template(tok, ["<s>"])
    return tok


def llama2_new():
    tok = llama2_model(1500)
    tok.pre_tokenizer = pre.Metaspace("\u2581", "first", False)
    tok.decoder = metaspace_decoder()
    tok.post_processor = with_template(tok, ["<s>"], ["</s>"])
    return tok


def metaspace_split():
    """Words cut at the mark, mark put before every piece; Metaspace decodes too. Plain tokens that
    are looked for in normalized text."""
    tok = llama2_model(1100)
    tok.normalizer = normalizers.Sequence([normalizers.Strip(True, True), normalizers.NFKC(),
                                           normalizers.Replace(Regex(r" {2,}"), "\u2581")])
    tok.pre_tokenizer = pre.Metaspace("\u2581", "always", True)
    tok.decoder = decoders.Metaspace("\u2581", "always", True)
    tok.add_tokens([AddedToken("[MASK]", lstrip=True), AddedToken("word", single_word=True)])
    return tok


def nfc_added():
    """NFC, GPT-2's own splitting with a space in front, and added tokens of every kind."""
    tok = byte_level_tokenizer(pre.ByteLevel(True, True, True), 900)
    tok.normalizer = normalizers.NFC()
    tok.add_special_tokens([AddedToken("<s>"), AddedToken("</s>", normalized=True), AddedToken("<pad>", lstrip=True)])
    tok.add_tokens([
        AddedToken("[MASK]", lstrip=True, rstrip=True, normalized=False), AddedToken("<left>", lstrip=True),
        AddedToken("<right>", rstrip=True), AddedToken("<both>", lstrip=True, rstrip=True),
        AddedToken("word", single_word=True), AddedToken("keyword", single_word=True, normalized=False),
        AddedToken("Caf\u00E9"), AddedToken("Cafe\u0301s", normalized=False), AddedToken("two words"),
        AddedToken("NORM", single_word=True, lstrip=True), AddedToken("\u4F60\u597D", rstrip=True, single_word=True),
        AddedToken("[MASKED]", normalized=False), AddedToken("<|", normalized=False), AddedToken("<|eot_id|>"),
    ])
    tok.post_processor = with_template(tok, [], ["</s>"])
    return tok


def lower_added():
    """A normalizer that changes added tokens; unknown characters, not fused; no decoder."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    tok.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tok.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), pre.Punctuation(), pre.Digits(True)])
    tok.train_from_iterator(limited(300), trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", "<pad>"], show_progress=False))
    tok.add_tokens([AddedToken("NORM"), AddedToken("Caf\u00E9"), AddedToken("[MASK]", single_word=True)])
    tok.add_special_tokens([AddedToken("[MASKED]", normalized=True)])
    return tok


def crossing_model():
    """Merges learnt without any splitting: every cut shows in the ids. Unknown ones vanish."""
    tok = Tokenizer(models.BPE())
    tok.train_from_iterator([t for t in limited(250) if len(t) < 60], trainers.BpeTrainer(
        vocab_size=700, show_progress=False))
    return tok


def variant(base, normalizer=None, pre_tokenizer=None, decoder=None):
    tok = Tokenizer.from_str(base)
    if normalizer:
        tok.normalizer = normalizer
    if pre_tokenizer:
        tok.pre_tokenizer = pre_tokenizer
    if decoder:
        tok.decoder = decoder
    return tok


def variants(base):
    """Small differences, one each: behaviors of Split, schemes of Metaspace, single steps."""
    out = {}
    for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
        for invert in [False, True]:
            name = "split_" + behavior + ("_not" if invert else "")
            out[name] = variant(base, None, pre.Split(Regex(r"\s|[aeiou]|\p{P}"), behavior, invert))
    out["split_text"] = variant(base, None, pre.Split("an", "merged_with_next", False), decoders.Fuse())
    out["split_empty"] = variant(base, None, pre.Split(Regex(r"x*|(?=e)|(?<=a)"), "isolated"))
    out["split_classes"] = variant(base, None, pre.Split(
        Regex(r"[\w-]+|\h|[^\S\n]|^.|.$|\d{,2}\u0041|[\s\S]{3}|\S\D\W"), "isolated"))
    out["split_script"] = variant(base, None, pre.Split(Regex(r"\p{Han}+|\p{^L}\p{Greek}|(?i:[a-f]K)|(?m:k.)"),
                                                        "isolated"))
    for scheme in ["always", "first", "never"]:
        for split in [False, True]:
            mark = pre.Metaspace("_", scheme, split)
            out["mark_%s_%d" % (scheme, split)] = variant(
                base, None, pre.Sequence([pre.Split("e", "isolated", False), mark]),
                decoders.Metaspace("_", scheme, split))
    mark = pre.Metaspace("\u2581", "first", True)
    drop = normalizers.Replace(Regex(r"^[ka]+"), "")
    out["mark_dropped"] = variant(base, drop, mark, decoders.Replace(Regex(r"[aeiou]+"), "*"))
    out["mark_grown"] = variant(base, normalizers.Sequence([normalizers.Prepend("ab"), normalizers.NFKD()]),
                                pre.Sequence([pre.Split("b", "isolated", False), mark]), decoders.Sequence([decoders.Replace(Regex(r"\A|\z"), "aaxaa"),
                                                     decoders.Strip("a", 2, 1)]))
    out["words"] = variant(base, None, pre.Whitespace(), decoders.ByteFallback())
    out["digits"] = variant(base, None, pre.Digits(False))
    out["punctuation"] = variant(base, None, pre.Punctuation("merged_with_previous"))
    for name in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"]:
        out["form_" + name.lower()] = variant(base, getattr(normalizers, name)())
    out["strip_left"] = variant(base, normalizers.Strip(True, False))
    out["strip_right"] = variant(base, normalizers.Strip(False, True))
    return out


def families():
    out = {f.__name__: f() for f in [llama3, llama2, llama2_new, metaspace_split, nfc_added, lower_added]}
    out["cl100k"] = byte_level_tokenizer(split_then_bytes(CL100K.replace("{1,3}+", "{1,3}")), 700)
    out["o200k"] = byte_level_tokenizer(split_then_bytes(O200K), 700)
    out["three_splits"] = byte_level_tokenizer(pre.Sequence([
        pre.Split(Regex(r"\p{N}{1,3}"), "isolated"), pre.Split(Regex("[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"), "isolated"),
        pre.Split(Regex(PUNCTUATED), "isolated"), pre.ByteLevel(False, True, False)]), 700)
    return out


# --- Recording ---------------------------------------------------------------------------------

def leb(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def ids_bytes(ids):
    return leb(len(ids)) + b"".join(leb(i) for i in ids)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value.to_bytes(8, "little")


def ids_hash(ids):
    return fnv(b"".join(i.to_bytes(4, "little") for i in ids))


def text_bytes(text, same_as=None):
    return b"\0" if text == same_as else b"\1" + fnv(text.encode())


def record_line(tok, line):
    text = line.decode(errors="replace")
    plain = tok.encode(text, add_special_tokens=False).ids
    full = tok.encode(text, add_special_tokens=True).ids
    at = next(i for i in range(len(full) - len(plain) + 1) if full[i:i + len(plain)] == plain)
    return (ids_bytes(plain) + ids_bytes(full[:at]) + ids_bytes(full[at + len(plain):]) +
            text_bytes(tok.decode(full, skip_special_tokens=False), text) +
            text_bytes(tok.decode(full, skip_special_tokens=True), text))


def record_list(tok):
    ids = sorted(tok.get_vocab().values())
    chosen = [rng.choice(ids) for _ in range(rng.randint(0, 12))]
    return (ids_bytes(chosen) + text_bytes(tok.decode(chosen, skip_special_tokens=False)) +
            text_bytes(tok.decode(chosen, skip_special_tokens=True)))


def record(tok, step, n_lists, sweep):
    tok = Tokenizer.from_str(tok.to_str())  # as everyone will load it
    hashed = [*long_texts(), *sweep_texts()] if sweep else []
    return (leb(step) + b"".join(record_line(tok, line) for line in LINES[::step]) +
            leb(n_lists) + b"".join(record_list(tok) for _ in range(n_lists)) +
            leb(len(hashed)) + b"".join(ids_hash(tok.encode(t, add_special_tokens=False).ids) for t in hashed))


def write_families():
    for name, tok in families().items():
        (HERE / (name + ".json")).write_text(tok.to_str(pretty=False), encoding="utf-8")
        (HERE / (name + ".bin")).write_bytes(record(tok, 3 if name in THIRDS else 1, 400, True))


def write_variants():
    base = crossing_model().to_str()
    (HERE / "variants.json").write_text(base, encoding="utf-8")
    changes, recorded = [], []
    for name, tok in variants(base).items():
        parts = json.loads(tok.to_str())
        changes.append({"name": name, **{k: parts[k] for k in ("normalizer", "pre_tokenizer", "decoder")}})
        recorded.append(record(tok, 11, 20, name in SWEPT))
    (HERE / "variants.jsonl").write_text("".join(json.dumps(c) + "\n" for c in changes), encoding="utf-8")
    (HERE / "variants.bin").write_bytes(b"".join(recorded))


THIRDS = ("cl100k", "o200k", "three_splits")
SWEPT = ("words", "digits", "punctuation", "split_classes", "split_script", "form_nfc", "form_nfd", "form_nfkc",
         "form_nfkd", "form_lowercase", "form_stripaccents")
LINES = make_lines()
# Without NUL: jansson reads no such key, and no real vocabulary has one.
TRAINING = [plain_line() for _ in range(1500)]
TRAINING += [l.decode(errors="replace").replace("\0", "") for l in LINES[:1500]]

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    (HERE / "lines.bin").write_bytes(leb(len(LINES)) + b"".join(leb(len(l)) + l for l in LINES))
    write_families()
    write_variants()
