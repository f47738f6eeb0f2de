#!/usr/bin/env python3
"""Records what HF tokenizers and transformers do, for tests/golden/test_tokenizer.c.

    python3 -m venv env && env/bin/pip install -r requirements.txt
    env/bin/python record_tokenizer.py                  all of tokenizer/, from nothing but a seed
    env/bin/python record_tokenizer.py FAMILY BLOCK     prints what is expected of one block's lines

Lines and code points come from tokenizer_lines.py, which the test has in C; what the tokenizers make
of them is kept as hashes (u32, little-endian), one for a block of 50 lines:

    lines.bin              440 hashes of the blocks' texts themselves
    <family>/              tokenizer.json, tokenizer_config.json, config.json
    <family>/hashes.bin    440 of tokenizer.json by HF tokenizers, 440 of the directory by
                           transformers' AutoTokenizer, 272 + 10 of sweeps and long texts (ids only)
        a block's: for each line ids without special tokens, ids with, decode(these), the same with
        skip_special_tokens; then both decodings of ids that no text gave
    variants.json          the tokenizer that variants.jsonl changes, one a line:
                             {"name", "normalizer", "pre_tokenizer", "decoder"}
    variants.bin           for each of them 20 of blocks (every 22nd from its number on), then of 272
                           sweeps if its name is swept
    directories.jsonl      directories drawn at random, one a line: {"base": a family, "file": sections
                           of its tokenizer.json that change, other files or null, "specials": ids of
                           bos, eos, unk, pad or -1, "block", "hashes": of that block and the 200th after}
    real.bin               440 and 440, as <family>/hashes.bin, of ../shared/models/stories260K
"""
import json
import os
import pathlib
import sys
import tempfile
import warnings

from tokenizers import Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers import trainers
import tokenizers

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers  # noqa: E402 (after the environment)

import tokenizer_lines as lines  # noqa: E402
from tokenizer_directories import cases  # noqa: E402
from tokenizer_families import FAMILIES, limited  # noqa: E402

assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
assert transformers.__version__ == "5.23.0", transformers.__version__
HERE = lines.HERE
REAL = pathlib.Path(__file__).resolve().parents[3] / "shared/models/stories260K"
VARIANT_STEP = 22
SWEPT = ("words", "digits", "punctuation", "split_classes", "split_script", "form_nfc", "form_nfd", "form_nfkc",
         "form_nfkd", "form_lowercase", "form_stripaccents")


class File:
    """tokenizer.json by HF tokenizers"""

    def __init__(self, path):
        self.tok = Tokenizer.from_file(str(path))
        self.n_ids = self.tok.get_vocab_size()
        assert max(self.tok.get_vocab().values()) == self.n_ids - 1

    def encode(self, texts, special):
        return [e.ids for e in self.tok.encode_batch(texts, add_special_tokens=special)]

    def decode(self, lists, skip):
        return self.tok.decode_batch(lists, skip_special_tokens=skip)


class Directory:
    """A directory by transformers"""

    def __init__(self, path):
        self.tok = transformers.AutoTokenizer.from_pretrained(str(path))
        self.n_ids = len(self.tok)
        texts = lines.block(0)  # sets what encode_batch below relies on, and shows that it does
        assert self.tok(texts)["input_ids"] == self.encode(texts, True)

    def encode(self, texts, special):  # several times as fast as by the class
        return [e.ids for e in self.tok.backend_tokenizer.encode_batch(texts, add_special_tokens=special)]

    def decode(self, lists, skip):
        return self.tok.batch_decode(lists, skip_special_tokens=skip)


def results(tok, texts):
    plain, full = tok.encode(texts, False), tok.encode(texts, True)
    return zip(plain, full, tok.decode(full, False), tok.decode(full, True))


def block_hash(tok, number):
    out = b""
    for plain, full, text, skipped in results(tok, lines.block(number)):
        out += lines.ids_bytes(plain) + lines.ids_bytes(full) + lines.text_bytes(text) + lines.text_bytes(skipped)
    ids = lines.block_ids(number, tok.n_ids)
    for skip in (False, True):
        out += lines.text_bytes(tok.decode([ids], skip)[0])
    return lines.polynomial(out)


def all_blocks(tok):
    return [block_hash(tok, i) for i in range(lines.N_BLOCKS)]


def ids_hashes(tok, texts):
    return [lines.polynomial(lines.ids_bytes(ids)) for ids in tok.encode(texts, False)]


def sweeps(tok):
    return ids_hashes(tok, [lines.sweep(i) for i in range(lines.N_SWEEPS)])


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def write_lines():
    hashes = [lines.polynomial(b"".join(lines.text_bytes(t) for t in lines.block(i))) for i in range(lines.N_BLOCKS)]
    (HERE / "lines.bin").write_bytes(lines.hashes_bytes(hashes))


def write_family(make):
    where = HERE / make.__name__
    where.mkdir(exist_ok=True)
    tok, config, model_type = make()
    write_json(where / "tokenizer.json", json.loads(tok.to_str()))
    write_json(where / "tokenizer_config.json", config)
    if model_type:
        write_json(where / "config.json", {"model_type": model_type})
    by_file, by_directory = File(where / "tokenizer.json"), Directory(where)
    hashes = all_blocks(by_file) + all_blocks(by_directory) + sweeps(by_file) + ids_hashes(by_file, lines.long_texts())
    (where / "hashes.bin").write_bytes(lines.hashes_bytes(hashes))
    same = hashes[:lines.N_BLOCKS] == hashes[lines.N_BLOCKS:2 * lines.N_BLOCKS]
    print(make.__name__, type(by_directory.tok).__name__, "as the file" if same else "not as the file")


# --- Variants ------------------------------------------------------------------------------------

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


def write_variants():
    base = crossing_model().to_str()
    write_json(HERE / "variants.json", json.loads(base))
    changes, hashes = [], []
    for i, (name, tok) in enumerate(variants(base).items()):
        parts = json.loads(tok.to_str())
        changes.append({"name": name, **{k: parts[k] for k in ("normalizer", "pre_tokenizer", "decoder")}})
        path = HERE / "variant.json"
        path.write_text(tok.to_str(), encoding="utf-8")
        tok = File(path)
        path.unlink()
        hashes += [block_hash(tok, k) for k in range(i % VARIANT_STEP, lines.N_BLOCKS, VARIANT_STEP)]
        hashes += sweeps(tok) if name in SWEPT else []
    (HERE / "variants.jsonl").write_text("".join(json.dumps(c) + "\n" for c in changes), encoding="utf-8")
    (HERE / "variants.bin").write_bytes(lines.hashes_bytes(hashes))


# --- Directories ---------------------------------------------------------------------------------

def write_directories():
    rows = []
    for i, case in enumerate(cases(90, 4)):
        with tempfile.TemporaryDirectory() as where:
            case.write(pathlib.Path(where))
            try:
                tok = Directory(where)
            except (TypeError, ValueError):  # transformers refuses it, too
                continue
        if not case.ids_are_kept(tok.tok):
            continue
        specials = [getattr(tok.tok, name + "_token_id") for name in ("bos", "eos", "unk", "pad")]
        rows.append({**case.row(), "specials": [-1 if s is None else s for s in specials],
                     "hashes": [block_hash(tok, (7 * i + k) % lines.N_BLOCKS) for k in (0, 200)], "block": 7 * i})
    (HERE / "directories.jsonl").write_text(
        "".join(json.dumps(r, separators=(",", ":")) + "\n" for r in rows), encoding="utf-8")


def write_real():
    if REAL.exists():
        hashes = all_blocks(File(REAL / "tokenizer.json")) + all_blocks(Directory(REAL))
        (HERE / "real.bin").write_bytes(lines.hashes_bytes(hashes))


def show(family, number):
    where = HERE / family
    for name, tok in (("tokenizer.json", File(where / "tokenizer.json")), ("directory", Directory(where))):
        for i, row in enumerate(results(tok, lines.block(number))):
            print(name, number * lines.BLOCK + i, ascii(lines.block(number)[i]), *row, sep="\n    ")


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    if len(sys.argv) == 3:
        return show(sys.argv[1], int(sys.argv[2]))
    write_lines()
    for make in FAMILIES:
        write_family(make)
    write_variants()
    write_directories()
    write_real()


if __name__ == "__main__":
    main()
