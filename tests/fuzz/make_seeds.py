#!/usr/bin/env python3
"""Writes the first inputs of the fuzzing targets, corpus/TARGET/seed-*, from what the other tests
use, and the dictionaries, *.dict, from the words in the readers' sources. To be run again when
readers learn new words or formats; `run.sh TARGET merge` adds what fuzzing finds."""
import base64
import json
import pathlib
import re
import struct
import zipfile

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent
golden = root / "tests/golden"


def seed(target, name, data):
    path = here / "corpus" / target / f"seed-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def lines_of(path):
    """A libconfig file without comments, what it includes in its place."""
    out = []
    for line in path.read_text().splitlines():
        include = re.match(r'@include "(.*)"', line)
        if include:
            out += lines_of(path.parent / include[1])
        elif not line.startswith("#"):
            out.append(line)
    return out


def whole(path):
    """The same as one text; of settings given twice, the last stays."""
    found = {}
    for setting in re.split(r"\n(?=\w)", "\n".join(lines_of(path))):
        found[re.match(r"\s*(\w*)", setting)[1]] = setting
    return "\n".join(found.values())


def dictionary(name, sources, quoted, more=()):
    """Words between quotes in the sources: as JSON strings (quoted) or bare."""
    words = set()
    for pattern in sources:
        for path in sorted((root / "src/format").glob(pattern)):
            words |= set(re.findall(r'"([A-Za-z_][A-Za-z_0-9.]{0,39})"', path.read_text()))
    words = {w for w in words if not w.endswith(".h")}
    lines = [rf'"\"{w}\""' if quoted else f'"{w}"' for w in sorted(words)] + list(more)
    (here / f"{name}.dict").write_text("\n".join(lines) + "\n")


JSON = [r'"{\"\":"', '"null"', '"true"', '"false"', '"[]"', '"{}"', '"1e308"', '"-1"', '"0"',
        '"2147483648"', '"9223372036854775807"', r'"\\u0000"', r'"\\ud83d\\ude42"']
dictionary("safetensors", ["safetensors.c"], True, JSON + [
    rf'"\"{t}\""' for t in ("F32", "BF16", "F16", "I64", "BOOL", "F8_E4M3", "weight_map")])
dictionary("config", ["spec*.c", "family*.c"], True, JSON)
dictionary("tokenizer", ["tokenizer*.c"], True, JSON)
dictionary("adapter_config", ["peft.c", "pyreft.c"], True, JSON)
dictionary("job", ["job*.c", "cfg*.c"], False, ['"@include \\""', '"= "', '"; "', '"{ "', '"}; "',
                                                '"budget:0.04%"', '"f1+l2"', '"0-3,-1"'])
dictionary("chat", ["chat*.c"], False, ['"= "', '"; "', '"( "', '") "', '"{ "', '"}; "', '"{date}"'])
dictionary("task", ["task*.c"], False, ['"= "', '"; "', '"( "', '") "', '"{"', '"}"', r'"(?i)"',
                                        r'"\\\\d+"'])
dictionary("gguf", ["gguf.c"], False, ['"GGUF\\x03\\x00\\x00\\x00"',
                                       '"general.architecture"', '"tokenizer.ggml.tokens"'] +
           [f'"\\x{t:02x}\\x00\\x00\\x00"' for t in range(31)])
dictionary("torchfile", ["torchfile*.c"], False, [r'"PK\x01\x02"', r'"PK\x03\x04"', r'"PK\x05\x06"',
                                                  r'"ctorch._utils\x0a_rebuild_tensor_v2\x0a"',
                                                  r'"ccollections\x0aOrderedDict\x0a"'])


# --- safetensors and its index ---------------------------------------------------------------------
def safetensors(tensors, metadata=None, pad=True):
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, dtype, shape, values in tensors:
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 if pad else 0)
    return struct.pack("<Q", len(text)) + text + data


seed("safetensors", "two", safetensors([("a", "F32", [2, 3], bytes(24)), ("b", "BF16", [5], bytes(10))],
                                       {"format": "pt"}))
seed("safetensors", "dtypes", safetensors([("i", "I64", [1], bytes(8)), ("f", "F16", [], bytes(2)),
                                           ("q", "F8_E4M3", [2, 2], bytes(4)), ("o", "BOOL", [1], b"\1"),
                                           ("none", "U8", [0, 4], b"")]))
seed("safetensors", "empty", safetensors([]))
seed("safetensors", "unpadded", safetensors([("x", "F32", [1], bytes(4))], pad=False))
seed("index", "three", json.dumps({"metadata": {"total_size": 28}, "weight_map": {
    "a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}))
seed("index", "outside", json.dumps({"weight_map": {"a": "../1.safetensors"}}))
seed("index", "missing", json.dumps({"weight_map": {"a": "1.safetensors", "d": "2.safetensors"}}))


# --- gguf ------------------------------------------------------------------------------------------
def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def gguf(values, tensors, alignment=32, version=3):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    for key, kind, value in values:
        out += text(key) + struct.pack("<I", kind) + value
    data = b""
    for name, shape, kind, n in tensors:
        data += bytes(-len(data) % alignment)
        out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", kind, len(data))
        data += bytes(n)
    return out + bytes(-len(out) % alignment) + data


some = [("general.architecture", 8, text("llama")), ("llama.block_count", 4, struct.pack("<I", 2)),
        ("llama.rope.freq_base", 6, struct.pack("<f", 1e4)), ("yes", 7, b"\1"),
        ("big", 12, struct.pack("<d", 1.5)), ("small", 1, b"\xff"), ("long", 10, bytes(8)),
        ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc")),
        ("scores", 9, struct.pack("<IQ", 6, 2) + bytes(8))]
seed("gguf", "types", gguf(some, [("token_embd.weight", [4, 3], 0, 48), ("q", [32, 2], 8, 68),
                                  ("h", [5], 1, 10), ("b", [2, 2], 30, 8)]))
seed("gguf", "aligned", gguf([("general.alignment", 4, struct.pack("<I", 8))], [("x", [3], 0, 12)],
                             8, 2))
seed("gguf", "nested", gguf([("n", 9, struct.pack("<IQIQ", 9, 1, 4, 1) + bytes(4))], []))
seed("gguf", "empty", gguf([], []))

# --- config.json -----------------------------------------------------------------------------------
seen = set()
for path in sorted(golden.glob("*/*/config.json")) + [root / "jobs/quickstart/model/config.json"]:
    config = json.loads(path.read_text())
    key = (config.get("model_type"), tuple(sorted(config)))
    if config.get("model_type") is None or key in seen:
        continue
    seen.add(key)
    generation = path.with_name("generation_config.json")
    first = json.dumps(json.loads(generation.read_text())) + "\0" if generation.exists() else ""
    seed("config", path.parent.name, first + json.dumps(config, separators=(",", ":")))

# --- tokenizers ------------------------------------------------------------------------------------


def smaller(tokenizer):
    """Keeps single characters, the first few merges, and what they make."""
    model = tokenizer["model"]
    if isinstance(model["vocab"], list):  # Unigram: pairs of text and score
        model["vocab"] = model["vocab"][:40]
        return tokenizer
    pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model.get("merges", [])]
    vocab, kept = model["vocab"], []
    words = [w for w in sorted(vocab, key=vocab.get)
             if len(w) == 1 and w < "\u0180" or len(w) == 6 and w.startswith("<0x4")]
    words += [w for w in vocab if w.startswith("<") and w.endswith(">") and len(w) > 1][:4]
    for left, right in pairs:
        if len(kept) < 12 and left in words and right in words:
            kept.append([left, right])
            if left + right not in words:
                words.append(left + right)
    words = list(dict.fromkeys(words))
    model["vocab"] = {w: i for i, w in enumerate(words)}
    if "merges" in model:
        model["merges"] = kept
    n = len(words)
    for token in tokenizer.get("added_tokens", []):
        if token["content"] not in words:
            token["id"], n = n, n + 1
        else:
            token["id"] = words.index(token["content"])
    ids = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", [])}
    rename(tokenizer.get("post_processor"), ids | model["vocab"])
    return tokenizer


def rename(step, ids):
    for inner in (step or {}).get("processors", []):
        rename(inner, ids)
    for name, special in ((step or {}).get("special_tokens") or {}).items():
        special["ids"] = [ids.get(token, 0) for token in special["tokens"]]


for path in sorted(golden.glob("tokenizer/*.json")):
    tokenizer = json.loads(path.read_text())
    if "model" in tokenizer and path.stat().st_size < 200_000:
        seed("tokenizer", path.stem, json.dumps(smaller(tokenizer), ensure_ascii=False,
                                                separators=(",", ":")))


def charsmap(n_units, units, texts):
    array = bytearray(4 * n_units)
    for at, unit in units.items():
        struct.pack_into("<I", array, 4 * at, unit)
    return struct.pack("<I", len(array)) + array + texts


# a -> "b": from the root by offset 1 to 0x60, its rule at 0x61. And further e' -> "e", by two bytes.
one = {0: 1 << 10, 0x60: 0x61 | 1 << 8 | 1 << 10, 0x61: 1 << 31}
two = one | {0xC2: 0xC3 | 0x100 << 10, 0x16B: 0xA9 | 1 << 8 | 1 << 10, 0x16A: 1 << 31 | 2}
seed("charsmap", "one", charsmap(0x200, one, b"b\0"))
seed("charsmap", "two", charsmap(0x200, two, b"b\0e\0"))
seed("charsmap", "gone", charsmap(0x200, one, b"\0"))
rules = base64.b64encode(charsmap(0x200, one, b"b\0")).decode()
unigram = {"version": "1.0", "added_tokens": [
    {"id": 0, "content": "<unk>", "single_word": False, "lstrip": False, "rstrip": False,
     "normalized": False, "special": True}],
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Precompiled", "precompiled_charsmap": rules},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always",
                      "split": True},
    "post_processor": None,
    "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always",
                "split": True},
    "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [
        ["<unk>", 0], ["\u2581", -2.5], ["H", -4], ["e", -3], ["l", -3.25], ["lo", -4], ["o", -3],
        ["\u2581He", -6], ["b", -9.5]]}}
seed("tokenizer", "unigram", json.dumps(unigram, ensure_ascii=False, separators=(",", ":")))
decoder = {"0": {"content": "<unk>", "special": True, "lstrip": False, "rstrip": False,
                 "normalized": False, "single_word": False}}
special = {"bos_token": "<s>", "eos_token": decoder["0"] | {"__type": "AddedToken", "content": "</s>"},
           "unk_token": "<unk>", "pad_token": None, "clean_up_tokenization_spaces": False}
for i, (config, model, mapped, added) in enumerate([
        (special | {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}, {}, {}, {}),
        (special | {"tokenizer_class": "PreTrainedTokenizerFast"}, {"model_type": "llama"}, {}, {}),
        (special | {"tokenizer_class": "T5Tokenizer", "extra_ids": 2}, {"model_type": "t5"}, {}, {}),
        ({"tokenizer_class": "Qwen2Tokenizer", "additional_special_tokens": ["<a>"]},
         {"model_type": "qwen2"}, {"eos_token": "</s>"}, {}),
        ({"tokenizer_class": "GemmaTokenizer"}, {"model_type": "gemma3_text"}, {}, {}),
        ({"added_tokens_decoder": decoder}, {}, {}, {}), ({}, {}, {}, {"<x>": 9})]):
    parts = [json.dumps(part) if part else "" for part in (config, model, mapped, added)]
    for kind in range(4):
        seed("tokenizer_dir", f"{i}-{kind}", bytes([kind]) + "\0".join(parts).encode())
variants = golden / "tokenizer/variants.jsonl"
for i, line in enumerate(variants.read_text().splitlines()):
    steps = json.loads(line)
    if i % 3:  # enough of them
        continue
    tokenizer = json.loads((golden / "tokenizer/variants.json").read_text())
    tokenizer |= {k: v for k, v in steps.items() if k in tokenizer}
    tokenizer["model"] = {"type": "BPE", "vocab": {c: i for i, c in enumerate("abĠ▁.1x")},
                          "merges": [], "unk_token": None}
    tokenizer["added_tokens"], tokenizer["post_processor"] = [], None
    seed("tokenizer", f"variant-{i}", json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")))
for i, line in enumerate(["Hello, World!  1234\n\n", "<s>a</s> e\u0301 \ufb01 \u0130", "日本語 🙂 \u2581",
                          "don't WE'LL \t x", "\u0915\u094d\u0937 \u0e01\u0e33 \u1100\u1161"]):
    for kind in range(6):
        seed("text", f"{i}-{kind}", bytes([kind]) + line.encode())
seed("text", "invalid", b"\0a\xff\xed\xa0\x80\xf0\x9f")

# --- job and task files ----------------------------------------------------------------------------
plain = 'model: { path = "m"; };\ntask: { file = "t.cfg"; };\n'
seed("job", "plain", plain)
for path in sorted((root / "configs/methods").glob("*.cfg")):
    seed("job", path.stem, plain + whole(path))
seed("job", "quickstart", whole(root / "jobs/quickstart.cfg") +
     "\0method.rank=2\0train.lr=1e-4\0method.layers=0-3,-1\0lora.rank=budget:0.04%")
seed("job", "include", '@include "job.cfg"\n')


def turns_of(speaker, text, user, assistant):
    return [{speaker: user, text: "hi"}, {speaker: assistant, text: "a"}]


records = {"boolq": {"passage": "p", "question": "q", "answer": True},
           "listops": {"Source": "[MAX 2 9 ]", "Target": "9"},
           "sort": {"List": "3 1", "Sorted": "1 3"},
           "aqua": {"question": "q", "options": ["A)1", "B)2"], "rationale": "r", "correct": "B"},
           "winogrande": {"sentence": "a _", "option1": "x", "option2": "y", "answer": "2"},
           "boolq-instruct": {"instruction": "i", "output": "o", "answer": "True"},
           "arc-instruct": {"instruction": "i", "output": "o", "answer": "answer2"},
           "chat": {"messages": turns_of("role", "content", "user", "assistant")},
           "sharegpt": {"conversations": turns_of("from", "value", "human", "gpt")},
           "gsm8k": {"question": "1 + 1?", "answer": "It is.\n#### 2"},
           "arc-challenge": {"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]},
                             "answerKey": "B"}}
for path in sorted((root / "configs/tasks").glob("*.cfg")):
    record = records.get(path.stem, {"instruction": "i", "input": "", "output": "o"})
    seed("task", path.stem, whole(path) + "\0" + json.dumps(record))

turns = "\0".join(("fsystem", "guser text ", "hanswer", "gagain", "hthe end\n"))
for name in ("llama2", "llama3.1", "gemma2", "qwen3", "phi3.5", "mistral-v3", "granite3"):
    seed("chat", name, whole(root / f"configs/chat/{name}.cfg") + "\0" + turns)

# --- adapters of others ----------------------------------------------------------------------------
for path in sorted((golden / "torchfile").glob("*.bin")):
    if zipfile.is_zipfile(path):
        seed("torchfile", path.stem, path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            pickle = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            storages = [len(archive.read(n)) for n in archive.namelist() if "/data/" in n]
            seed("pickle", path.stem, bytes(min(n, 255) for n in (storages + 8 * [64])[:8]) + archive.read(pickle))
for path in sorted((golden / "import").glob("*/adapter_config.json")):
    seed("adapter_config", path.parent.name, b"\0" + json.dumps(json.loads(path.read_text()),
                                                               separators=(",", ":")).encode())
pyreft = json.loads((golden / "import/pyreft/config.json").read_text())
seed("adapter_config", "pyreft", bytes([1 + 2 * len(pyreft["representations"])]) +
     json.dumps(pyreft, separators=(",", ":")).encode())
