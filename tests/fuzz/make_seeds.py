#!/usr/bin/env python3
"""Writes the first inputs of the fuzzing targets, corpus/TARGET/seed-*, from what the other tests
use, and the dictionaries, *.dict, from the words in the readers' sources. To be run again when
readers learn new words or formats; `run.sh TARGET merge` adds what fuzzing finds."""
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
plain = 'model: { path = "m"; };\n'
seed("job", "plain", plain)
for path in sorted((root / "configs/methods").glob("*.cfg")):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    seed("job", path.stem, plain + "\n".join(lines))
lines = (root / "jobs/quickstart.cfg").read_text().splitlines()
seed("job", "quickstart", "\n".join(l for l in lines if not l.startswith(("#", "@"))) +
     "\0method.rank=2\0train.lr=1e-4\0method.layers=0-3,-1\0lora.rank=budget:0.04%")
seed("job", "include", '@include "job.cfg"\n')
records = {"boolq": {"passage": "p", "question": "q", "answer": True},
           "listops": {"Source": "[MAX 2 9 ]", "Target": "9"},
           "gsm8k": {"question": "1 + 1?", "answer": "It is.\n#### 2"},
           "arc-challenge": {"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]},
                             "answerKey": "B"}}
for path in sorted((root / "configs/tasks").glob("*.cfg")):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    record = records.get(path.stem, {"question": "q", "answer": "A"})
    seed("task", path.stem, "\n".join(lines) + "\0" + json.dumps(record))

# --- adapters of others ----------------------------------------------------------------------------
for path in sorted((golden / "torchfile").glob("*.bin")):
    if zipfile.is_zipfile(path):
        seed("torchfile", path.stem, path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            pickle = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            seed("pickle", path.stem, archive.read(pickle))
for path in sorted((golden / "import").glob("*/adapter_config.json")):
    seed("adapter_config", path.parent.name, b"\0" + json.dumps(json.loads(path.read_text()),
                                                               separators=(",", ":")).encode())
pyreft = json.loads((golden / "import/pyreft/config.json").read_text())
seed("adapter_config", "pyreft", bytes([1 + 2 * len(pyreft["representations"])]) +
     json.dumps(pyreft, separators=(",", ":")).encode())
