"""Lines to tokenize, drawn from texts.json, and their hashes: the same as tests/golden/tokenizer_lines.c
draws. A line depends on its number alone."""
import functools
import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent / "tokenizer"
TEXTS = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
SCRIPTS = TEXTS["scripts"]  # name, ranges of code points, words

N_TEXT, N_BYTES, BLOCK = 20000, 2000, 50  # lines of text, of random bytes, in a block
N_BLOCKS = (N_TEXT + N_BYTES) // BLOCK
SWEEP, N_SWEEPS = 4096, 272  # code points in a sweep
WORD = 1 << 64


class Draw:
    """splitmix64"""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) % WORD
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        return (z ^ (z >> 31)) % n

    def pick(self, items):
        return items[self.below(len(items))]


def word(d, script):
    _, ranges, words = script
    if d.below(2):
        return d.pick(words)
    out = []
    for _ in range(1 + d.below(7)):
        first, last = d.pick(ranges)
        out.append(chr(first + d.below(last - first + 1)))
    return "".join(out)


def any_character(d):
    code = d.below(d.pick([0x300, 0x10000, 0x110000]))
    return "?" if 0xD800 <= code <= 0xDFFF else chr(code)


def number(d):
    out = str(d.below(10 ** (1 + d.below(9))))
    if d.below(3) == 0:
        out += d.pick([".", ",", "-"]) + str(d.below(1000))
    return out


def item(d, script):
    kind = d.below(20)
    if kind < 8:
        return word(d, script)
    if kind == 8:
        return word(d, d.pick(SCRIPTS))
    if kind < 11:
        return word(d, SCRIPTS[0]) + d.pick(TEXTS["ends"])
    if kind < 13:
        return number(d)
    if kind < 17:
        return d.pick(TEXTS[("odd", "emoji", "added", "code")[kind - 13]])
    if kind == 17:
        return any_character(d)
    if kind == 18:
        return d.pick(TEXTS["odd"]) + any_character(d)
    return word(d, script) * (1 + d.below(3))


def spaces(d):
    return d.pick(TEXTS["spaces"]) * (1 + d.below(4))


def text_line(d, script):
    out = spaces(d) if d.below(4) == 0 else ""
    for _ in range(1 + d.below(9)):
        out += item(d, script)
        kind = d.below(12)
        if kind < 8:
            out += " "
        elif kind == 9:
            out += spaces(d)
        elif kind == 10:
            out += d.pick(TEXTS["added"])
    return out


def bytes_line(d):
    """Bytes, most of them no UTF-8; what is not becomes U+FFFD."""
    out = b""
    for _ in range(1 + d.below(12)):
        kind = d.below(6)
        if kind == 0:
            for _ in range(1 + d.below(4)):
                out += bytes([d.below(256)])
        elif kind == 1:
            out += bytes([d.below(128)])
        elif kind < 4:
            cut = word(d, d.pick(SCRIPTS)).encode()
            at = d.below(len(cut))
            out += cut[:1 + at] if kind == 2 else cut[at:]
        else:
            out += d.pick(TEXTS["added"]).encode() if kind == 4 else b" "
    return out.decode(errors="replace")


def line(number_of_line):
    d = Draw(number_of_line << 20)
    if N_TEXT <= number_of_line < N_TEXT + N_BYTES:
        return bytes_line(d)
    return text_line(d, SCRIPTS[number_of_line % len(SCRIPTS)])


@functools.cache
def block(number_of_block):
    return [line(number_of_block * BLOCK + i) for i in range(BLOCK)]


def block_ids(number_of_block, n_ids):
    """Ids to decode that no text gave."""
    d = Draw(number_of_block << 20 | 1)
    return [d.below(n_ids) for _ in range(d.below(24))]


def sweep(number_of_sweep):
    """Every code point, after a letter and after a space."""
    first = number_of_sweep * SWEEP
    points = [c for c in range(first, first + SWEEP) if not 0xD800 <= c <= 0xDFFF]
    return "".join("a" + chr(c) + " " + chr(c) for c in points)


def long_texts():
    """Runs without a boundary, where a slow merge would be quadratic."""
    return ["a" * 100000, "ab" * 50000, " " * 100000, "\n" * 30000, "\u00E9" * 50000, "0" * 50000,
            "the " * 25000, "\U0001F600" * 20000, "-" * 60000 + "x", " \n" * 30000 + "x"]


# --- Hashes ------------------------------------------------------------------------------------

FACTOR = 0x9E3779B97F4A7C15
_powers = np.ones(1, np.uint64)


def polynomial(data):
    """h = h * FACTOR + byte + 1 from 0 on, modulo 2^64; its upper half."""
    global _powers
    if len(_powers) < len(data):
        steps = np.full(2 * len(data), FACTOR, np.uint64)
        steps[0] = 1
        _powers = np.multiply.accumulate(steps)
    values = np.frombuffer(data, np.uint8).astype(np.uint64) + np.uint64(1)
    total = (values * _powers[:len(data)][::-1]).sum(dtype=np.uint64) if len(data) else 0
    return int(total) >> 32


def with_length(data, n):
    return n.to_bytes(4, "little") + data


def ids_bytes(ids):
    return with_length(np.asarray(ids, "<i4").tobytes(), len(ids))


def text_bytes(text):
    data = text.encode()
    return with_length(data, len(data))


def hashes_bytes(hashes):
    return np.asarray(hashes, "<u4").tobytes()
