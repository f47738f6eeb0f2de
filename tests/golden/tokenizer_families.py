"""Small tokenizers with the settings of the real families: what their tokenizer.json and
tokenizer_config.json say, with a vocabulary trained on lines of tokenizer_lines.py."""
import base64
import collections
import json
import struct
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers import processors, trainers

import tokenizer_lines

FIRST_TRAINING_LINE = 1000000
# Without NUL: jansson reads no such key, and no real vocabulary has one.
TRAINING = [tokenizer_lines.line(FIRST_TRAINING_LINE + i).replace("\0", "") for i in range(3000)]
TRAINING += [" ".join(s[2]) for s in tokenizer_lines.SCRIPTS for _ in range(20)]
MARK = "\u2581"

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+"
          r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (r"[^\r\n\p{L}\p{N}]?%s*%s+%s|[^\r\n\p{L}\p{N}]?%s+%s*%s|\p{N}{1,3}" %
         (UPPER, LOWER, ENDING, UPPER, LOWER, ENDING)) + REST
TEKKEN = r"[^\r\n\p{L}\p{N}]?%s*%s+|[^\r\n\p{L}\p{N}]?%s+%s*|\p{N}" % (UPPER, LOWER, UPPER, LOWER) + REST
PUNCTUATED = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
              r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def special(*texts):
    return [AddedToken(t, normalized=False, special=True) for t in texts]


def plain(*texts, **flags):
    return [AddedToken(t, normalized=False, special=False, **flags) for t in texts]


def limited(n):
    """The training text in its n most frequent characters. (The trainer's own limit_alphabet breaks
    ties by chance.)"""
    counts = collections.Counter("".join(TRAINING))
    kept = set(sorted(counts, key=lambda c: (-counts[c], c))[:n])
    return ["".join(c for c in text if c in kept) for text in TRAINING]


def with_template(tok, before=(), after=()):
    pieces = [*before, "$A", *after]
    specials = [(t, tok.token_to_id(t)) for t in (*before, *after)]
    return processors.TemplateProcessing(single=pieces, pair=[*pieces, "$B"], special_tokens=specials)


# --- Byte-level BPE ----------------------------------------------------------------------------

def byte_level(pre_tokenizer, size=700, first=(), **model):
    """`first`: special tokens before the vocabulary."""
    tok = Tokenizer(models.BPE(**model))
    tok.pre_tokenizer = pre_tokenizer
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(TRAINING, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, special_tokens=list(first), initial_alphabet=pre.ByteLevel.alphabet()))
    return tok


def split_then_bytes(pattern, behavior="isolated", invert=False, trim=True):
    return pre.Sequence([pre.Split(Regex(pattern), behavior, invert), pre.ByteLevel(False, trim, False)])


def llama3():
    tok = byte_level(split_then_bytes(LLAMA3), 900, ignore_merges=True)
    tok.add_special_tokens(special("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_0|>",
                                   "<|start_header_id|>", "<|eot_id|>"))
    tok.post_processor = processors.Sequence([processors.ByteLevel(True, False),
                                              with_template(tok, ["<|begin_of_text|>"])])
    return tok, dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<|begin_of_text|>",
                     eos_token="<|eot_id|>", clean_up_tokenization_spaces=True), "llama"


def smollm3():
    tok, config, _ = llama3()
    tok.add_tokens(plain("<think>", "</think>"))
    tok.post_processor = processors.ByteLevel(True, False)
    return tok, {**config, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, "smollm3"


def qwen(more):
    tok = byte_level(split_then_bytes(QWEN2, trim=False))
    tok.normalizer = normalizers.NFC()
    tok.add_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>") + more)
    tok.post_processor = processors.ByteLevel(False, False)
    return tok, dict(tokenizer_class="Qwen2Tokenizer", bos_token=None, eos_token="<|im_end|>", add_prefix_space=False,
                     add_bos_token=False, pad_token="<|endoftext|>", unk_token=None, split_special_tokens=False,
                     additional_special_tokens=["<|im_start|>", "<|im_end|>"], errors="replace",
                     clean_up_tokenization_spaces=False)


def qwen2():
    return *qwen([]), "qwen2"


def qwen3():
    return *qwen(plain("<tool_call>", "<think>", "</think>")), "qwen3"


def tekken():
    tok = byte_level(split_then_bytes(TEKKEN), 800, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"],
                     ignore_merges=True)
    tok.post_processor = with_template(tok, ["<s>"])
    return tok, dict(tokenizer_class="GPT2Tokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                     add_bos_token=True, add_eos_token=False), "mistral"


def phi4_mini():
    tok = byte_level(split_then_bytes(O200K, "removed", True))
    tok.add_tokens(special("<|endoftext|>") + plain("<|end|>", "<|user|>", "<|assistant|>", rstrip=True) +
                   special("<|endofprompt|>"))
    return tok, dict(tokenizer_class="GPT2Tokenizer", bos_token="<|endoftext|>", eos_token="<|endoftext|>",
                     pad_token="<|endoftext|>", unk_token="<|endoftext|>", add_bos_token=False), "phi3"


def olmo2():
    tok = byte_level(split_then_bytes(CL100K, "removed", True))
    tok.add_tokens(special("<|endoftext|>") + plain("<fim_prefix>", "<|endofprompt|>"))
    return tok, dict(tokenizer_class="GPT2Tokenizer", bos_token="<|endoftext|>", eos_token="<|endoftext|>",
                     pad_token="<|pad|>", add_prefix_space=False, unk_token="<|endoftext|>"), "olmo2"


def digits_then_bytes():
    return pre.Sequence([pre.Digits(True), pre.ByteLevel(False, True, True)])


def smollm2():
    tok = byte_level(digits_then_bytes(), 700, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tok, dict(tokenizer_class="GPT2Tokenizer", bos_token="<|im_start|>", eos_token="<|im_end|>",
                     unk_token="<|endoftext|>", pad_token="<|im_end|>", add_prefix_space=False,
                     additional_special_tokens=["<|im_start|>", "<|im_end|>"]), "llama"


def granite3():
    tok = byte_level(digits_then_bytes(), 700, ["<|endoftext|>", "<fim_prefix>"])
    tok.add_special_tokens(special("<|start_of_role|>", "<tool_call>"))
    return tok, dict(tokenizer_class="GPT2Tokenizer", bos_token="<|endoftext|>", eos_token="<|endoftext|>",
                     pad_token="<|endoftext|>", unk_token="<|endoftext|>", add_bos_token=False), "granite"


def three_splits():
    return byte_level(pre.Sequence([
        pre.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre.Split(Regex("[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"), "isolated"),
        pre.Split(Regex(PUNCTUATED), "isolated"), pre.ByteLevel(False, True, False)])), {}, None


def nfc_added():
    """NFC, GPT-2's own splitting with a space in front, and added tokens of every kind."""
    tok = byte_level(pre.ByteLevel(True, True, True))
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
    return tok, {}, None


# --- SentencePiece BPE ---------------------------------------------------------------------------

def sentencepiece(first, size=1000, n_characters=350, **flags):
    """Characters, bytes and merges; `first` come first as in the real ones."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.pre_tokenizer = pre.Metaspace(split=True)
    tok.train_from_iterator(limited(n_characters), trainers.BpeTrainer(
        vocab_size=size, special_tokens=first + ["<0x%02X>" % b for b in range(256)], show_progress=False))
    made = json.loads(tok.to_str())
    made["added_tokens"] = [{**t, **flags} for t in made["added_tokens"][:len(first)]]
    made["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(made))


def metaspace_decoder(strip=True):
    chain = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(chain + ([decoders.Strip(" ", 1, 0)] if strip else []))


def prepended(tok):
    tok.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    tok.decoder = metaspace_decoder()
    tok.post_processor = with_template(tok, ["<s>"])
    return tok


SENTENCEPIECE = ["<unk>", "<s>", "</s>"]
LLAMA_CONFIG = dict(tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                    add_bos_token=True, add_eos_token=False, clean_up_tokenization_spaces=False, sp_model_kwargs={})


def marked(text):
    return {"__type": "AddedToken", "content": text, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False}


def llama1():
    return prepended(sentencepiece(SENTENCEPIECE, normalized=True)), {**LLAMA_CONFIG, "legacy": True}, "llama"


def llama2():
    config = {**LLAMA_CONFIG, "legacy": False, "pad_token": None, "bos_token": marked("<s>"),
              "eos_token": marked("</s>"), "unk_token": marked("<unk>")}
    return prepended(sentencepiece(SENTENCEPIECE)), config, "llama"


def llama2_new():
    tok = sentencepiece(SENTENCEPIECE)
    tok.pre_tokenizer = pre.Metaspace(MARK, "first", False)
    tok.decoder = metaspace_decoder()
    tok.post_processor = with_template(tok, ["<s>"], ["</s>"])
    return tok, {**LLAMA_CONFIG, "legacy": False, "add_prefix_space": None}, "llama"


def mistral_v1():
    config = {**LLAMA_CONFIG, "legacy": True, "additional_special_tokens": [], "pad_token": None}
    return prepended(sentencepiece(SENTENCEPIECE)), config, "mistral"


def mixtral():
    return *mistral_v1()[:2], "mixtral"


def mistral_v3():
    tok = sentencepiece(SENTENCEPIECE + ["[INST]", "[/INST]", "[TOOL_CALLS]"])
    tok.pre_tokenizer = pre.Metaspace(MARK, "first", False)
    tok.decoder = metaspace_decoder()
    tok.post_processor = with_template(tok, ["<s>"])
    return tok, {**LLAMA_CONFIG, "legacy": False, "add_prefix_space": None}, "mistral"


def phi3():
    tok = prepended(sentencepiece(SENTENCEPIECE))
    tok.add_tokens(plain("</s>", rstrip=True) + special("<|endoftext|>") +
                   [AddedToken(t, normalized=False, special=True, rstrip=True)
                    for t in ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")])
    tok.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return tok, {**LLAMA_CONFIG, "add_bos_token": False, "legacy": False, "eos_token": "<|endoftext|>",
                 "pad_token": "<|endoftext|>"}, "phi3"


def gemma_like(more, model_type):
    tok = sentencepiece(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    tok.normalizer = normalizers.Replace(" ", MARK)
    tok.pre_tokenizer = pre.Split(" ", "merged_with_previous", False)
    tok.decoder = metaspace_decoder(False)
    tok.add_tokens(plain("<2mass>", "<unused0>") + special("<start_of_turn>", "<end_of_turn>") +
                   plain("\n\n", "\n\n\n", MARK * 2, MARK * 3, "<table>", "</table>") + more)
    tok.post_processor = with_template(tok, ["<bos>"])
    return tok, dict(tokenizer_class="GemmaTokenizer", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
                     unk_token="<unk>", add_bos_token=True, add_eos_token=False, use_default_system_prompt=False,
                     additional_special_tokens=["<start_of_turn>", "<end_of_turn>"]), model_type


def gemma():
    return gemma_like([], "gemma")


def gemma3():
    tok, config, model_type = gemma_like(plain("[INST]", "\t\t"), "gemma3_text")
    del config["additional_special_tokens"]
    config.update(boi_token="<start_of_image>", image_token="<image_soft_token>",
                  extra_special_tokens={"eoi_token": "<end_of_image>"})
    return tok, config, model_type


def metaspace_split():
    """Words cut at the mark, mark put before every piece; Metaspace decodes too. Plain tokens that
    are looked for in normalized text."""
    tok = sentencepiece(SENTENCEPIECE)
    tok.normalizer = normalizers.Sequence([normalizers.Strip(True, True), normalizers.NFKC(),
                                           normalizers.Replace(Regex(r" {2,}"), MARK)])
    tok.pre_tokenizer = pre.Metaspace(MARK, "always", True)
    tok.decoder = decoders.Metaspace(MARK, "always", True)
    tok.add_tokens([AddedToken("[MASK]", lstrip=True), AddedToken("word", single_word=True)])
    return tok, {}, None


def lower_added():
    """A normalizer that changes added tokens; unknown characters, not fused; no decoder."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    tok.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tok.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), pre.Punctuation(), pre.Digits(True)])
    tok.train_from_iterator(limited(300), trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<pad>"], show_progress=False))
    tok.add_tokens([AddedToken("NORM"), AddedToken("Caf\u00E9"), AddedToken("[MASK]", single_word=True)])
    tok.add_special_tokens([AddedToken("[MASKED]", normalized=True)])
    return tok, {}, None


# --- Unigram -------------------------------------------------------------------------------------

def charsmap(rules):
    """SentencePiece's compiled rules: a double-array trie of what to replace, and the texts."""
    texts, at, root = bytearray(), {}, {}
    for text in sorted(set(rules.values())):
        at[text] = len(texts)
        texts += text.encode() + b"\0"
    for rule, text in rules.items():
        node = root
        for byte in rule.encode():
            node = node.setdefault(byte, {})
        node[0] = at[text]
    units, used, bases, todo = {}, {0}, set(), [(0, root, 0)]
    while todo:
        position, node, label = todo.pop(0)
        base = next(b for b in range(1 << 21) if b not in bases and not any(b ^ c in used for c in node))
        bases.add(base)
        used.update(base ^ c for c in node)
        offset = position ^ base
        wide = offset % 256 == 0 and offset > 0  # may be told in units of 256
        units[position] = label | (0 in node) << 8 | wide << 9 | (offset >> 8 if wide else offset) << 10
        for byte, child in node.items():
            if byte == 0:
                units[base] = child | 1 << 31
            else:
                todo.append((base ^ byte, child, byte))
    n = (max(max(units), max(used)) // 256 + 1) * 256
    return struct.pack("<%dI" % (n + 1), 4 * n, *(units.get(i, 0) for i in range(n))) + bytes(texts)


def nmt_like():
    """NFKC of some blocks, spaces of all kinds, what vanishes, and letters with accents composed."""
    rules = {}
    for first, last in [(0xA0, 0x17F), (0x2000, 0x206F), (0x2460, 0x2473), (0xFB00, 0xFB06), (0xFF01, 0xFF9F),
                        (0x3300, 0x3310), (0x32FF, 0x32FF), (0x2126, 0x212B), (0x958, 0x95F)]:
        for code in range(first, last + 1):
            form = unicodedata.normalize("NFKC", chr(code))
            if form != chr(code):
                rules[chr(code)] = form
    for letter in "aeioucnyAEIOUCNY":
        for accent in "\u0300\u0301\u0302\u0303\u0308\u0327":
            form = unicodedata.normalize("NFKC", letter + accent)
            if len(form) == 1:
                rules[letter + accent] = form
    rules.update({c: " " for c in "\t\n\r\u0085\u00A0\u2028\u2029\u3000\u200B\uFEFF"})
    rules.update({chr(c): "" for c in [*range(1, 9), *range(14, 32), 0x7F, 0xAD, 0x200E, 0x200F]})
    return rules


def unigram(first, size, n_extra, byte_fallback=False):
    tok = Tokenizer(models.Unigram())
    tok.pre_tokenizer = pre.Metaspace(MARK, "always", True)
    tok.train_from_iterator(limited(350), trainers.UnigramTrainer(
        vocab_size=size, special_tokens=first, unk_token="<unk>", show_progress=False, n_sub_iterations=2))
    made = json.loads(tok.to_str())
    vocab = made["model"]["vocab"]
    if byte_fallback:
        vocab += [["<0x%02X>" % b, -30.0] for b in range(256)]
    vocab += [["<extra_id_%d>" % i, 0.0] for i in reversed(range(n_extra))]
    made["model"]["byte_fallback"] = byte_fallback
    return Tokenizer.from_str(json.dumps(made))


def t5():
    tok = unigram(["<pad>", "</s>", "<unk>"], 900, 100)
    tok.normalizer = normalizers.Precompiled(charsmap(nmt_like()))
    tok.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace(MARK, "always", True)])
    tok.decoder = decoders.Metaspace(MARK, "always", True)
    tok.add_special_tokens(special("<pad>", "</s>", "<unk>", *("<extra_id_%d>" % i for i in range(100))))
    tok.post_processor = with_template(tok, [], ["</s>"])
    return tok, dict(tokenizer_class="T5Tokenizer", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
                     extra_ids=100, additional_special_tokens=["<extra_id_%d>" % i for i in range(100)],
                     clean_up_tokenization_spaces=True), "t5"


def unigram_bytes():
    """Newer conversions: rules, then spaces joined; bytes for what is unknown; mark at the very front."""
    tok = unigram(["<s>", "<pad>", "</s>", "<unk>"], 600, 0, True)
    tok.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap(nmt_like())),
                                           normalizers.Strip(False, True), normalizers.Replace(Regex(" {2,}"), MARK)])
    tok.pre_tokenizer = pre.Metaspace(MARK, "first", True)
    tok.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()])
    tok.add_special_tokens(special("<s>", "<pad>", "</s>", "<unk>"))
    tok.add_tokens([AddedToken("<mask>", lstrip=True), AddedToken("Caf\u00E9")])
    tok.post_processor = with_template(tok, ["<s>"], ["</s>"])
    return tok, dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                     pad_token="<pad>", mask_token="<mask>"), None


FAMILIES = [llama1, llama2, llama2_new, llama3, mistral_v1, mistral_v3, mixtral, tekken, qwen2, qwen3, gemma, gemma3,
            phi3, phi4_mini, smollm2, smollm3, olmo2, granite3, t5, unigram_bytes, three_splits, nfc_added,
            metaspace_split, lower_added]
