"""Are two adapters the same up to a tolerance? compare_adapters.py A B TOLERANCE (of the largest
value of each tensor)."""
import array
import json
import struct
import sys


def read(path):
    with open(path, "rb") as file:
        (n,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(n)), file.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, tensor in header.items():
        assert tensor["dtype"] == "F32", (path, name, tensor["dtype"])
        begin, end = tensor["data_offsets"]
        tensors[name] = array.array("f", data[begin:end])
    return tensors


a, b, tolerance = read(sys.argv[1]), read(sys.argv[2]), float(sys.argv[3])
assert a.keys() == b.keys() and a, (a.keys(), b.keys())
worst = 0.0
for name in a:
    largest = max(map(abs, a[name])) or 1.0
    worst = max(worst, max(abs(x - y) for x, y in zip(a[name], b[name], strict=True)) / largest)
print(f"largest difference {worst:.2e}, allowed {tolerance:.0e}")
sys.exit(worst > tolerance)
