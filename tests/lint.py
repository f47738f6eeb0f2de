#!/usr/bin/env python3
"""Floors only look down, also through headers, which the linker alone cannot see; and what only the
door may do is done only there. The table of floors is CMakeLists.txt itself."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
cmake = (root / "CMakeLists.txt").read_text()
floors = [(m[1], m[2]) for m in re.finditer(r"^tt_floor\((\w+)(.*?)\)", cmake, re.M | re.S)]
order = [name for name, _ in floors] + ["door"]
floor_of = {module: name for name, body in floors for module in body.split("MODULES")[1].split()}

problems = []
for path in sorted((root / "src").glob("*/*.[ch]")) + sorted((root / "include/trimtab").glob("*.h")):
    inside = path.parent.name
    if inside == "trimtab":
        inside = floor_of.get(path.stem)
        if inside is None:
            problems.append(f"{path.name}: a header without a module in CMakeLists.txt")
            continue
    text = path.read_text()
    where = path.relative_to(root)
    for header in re.findall(r'#include "trimtab/(\w+)\.h"', text):
        floor = floor_of.get(header)
        if floor is None or order.index(floor) > order.index(inside):
            problems.append(f"{where} ({inside}) includes {header}.h of the floor above ({floor})")
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    if str(where) != "src/door/main.c" and re.search(r"\bMPI_COMM_WORLD\b", code):
        problems.append(f"{where}: names MPI_COMM_WORLD, which is the door's")
    # docs/security.md: no name can reach a shell, no file's name be guessed
    for call in re.findall(r"\b(system|popen|exec[lv][pe]*|v?fork|posix_spawnp?|tmpnam|tempnam|mktemp|gets)\s*\(", code):
        problems.append(f"{where}: calls {call}, which nothing here does")
    if inside != "door":
        for call in re.findall(r"\b(printf|puts|putchar|exit|abort|MPI_Abort|getenv)\s*\(", code):
            if (call, path.name) != ("getenv", "gemm.c"):  # BLIS_ARCH_TYPE: see gemm.h
                problems.append(f"{where}: calls {call}, which is the door's")

print("\n".join(problems) or f"{len(floor_of)} modules on {len(floors)} floors look down only")
sys.exit(bool(problems))
