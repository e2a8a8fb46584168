"""What compilers made of the kernels for aarch64: python .ci/instructions.py OBJECT, a build's object file with lines
(CGRU_REPORT=1).

Prints, for each form of the tile (tile_neon.h), the instructions for each multiply-add of its main loop, and for each
loop of the elementwise updates whether it runs on vectors. Fails if a form of whole panels takes more than 1.3, a main
loop has memory of the stack in it, a loop of the updates runs on numbers one by one, or something calls libm.
"""

import re
import subprocess
import sys
from pathlib import Path

PREFIX = "aarch64-linux-gnu-"
MOST = 1.3
TYPES = {"float": ".4s", "double": ".2d"}
WHOLE = 4  # vectors of a panel
FORMS = [("tile", rows, 1) for rows in (1, 2, 3, 4)] + [("tile", rows, panels) for panels in (2, 3) for rows in (1, 2)]
KERNELS = Path(__file__).parents[1] / "cgru" / "kernels"
UPDATES = ("gates", "softmax", "norm")
LIBM = {"exp", "tanh", "fma", "log", "pow", "sin", "cos", "floor", "ceil", "rint", "round", "fmax", "fmin"}


class Loop:
    """A loop without branches inside: its instructions as (function of the source, mnemonic, operands)."""

    def __init__(self, symbol, instructions):
        self.symbol, self.instructions = symbol, instructions
        self.functions = {function for function, _, _ in instructions}
        self.multiply_adds = sum(name == "fmla" for _, name, _ in instructions)
        self.by_lane = all(re.search(r"\[\d\]$", operands) for _, name, operands in instructions if name == "fmla")
        self.on_stack = sum("[sp" in operands for _, _, operands in instructions)

    def uses(self, vector):
        return any(vector in operands for _, _, operands in self.instructions)


def run(tool, *arguments):
    return subprocess.run([PREFIX + tool, *arguments], check=True, capture_output=True, text=True).stdout


def branches(name):
    return name == "b" or name.startswith(("b.", "cbz", "cbnz", "tbz", "tbnz"))


def loops(path):
    """All `Loop`s of an object file."""
    found, symbol, function, body = [], "", "", []
    for line in [*run("objdump", "-dl", "--no-show-raw-insn", path).splitlines(), "0 <>:"]:
        if match := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            found += loops_of(symbol, body)
            symbol, body = match[1], []
        elif match := re.match(r"(\w[\w.]*)\(\):$", line):
            function = match[1]
        elif match := re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            body.append((int(match[1], 16), function, match[2], match[3]))
    return found


def loops_of(symbol, body):
    places = {address: i for i, (address, _, _, _) in enumerate(body)}
    for i, (address, _, name, operands) in enumerate(body):
        target = re.search(r"\b([0-9a-f]+) <", operands)
        if branches(name) and target and int(target[1], 16) <= address and int(target[1], 16) in places:
            inside = body[places[int(target[1], 16)] : i + 1]
            if not any(branches(name) for _, _, name, _ in inside[:-1]):
                yield Loop(symbol, [instruction[1:] for instruction in inside])


def tiles(found):
    """Print the forms of the tile; what is wrong with them."""
    wrong, seen = [], set()
    print("instructions for each vector multiply-add: rows x panels x vectors; along rows of A, across a transposed A")
    for loop in sorted(found, key=lambda loop: loop.symbol):
        if not (match := re.fullmatch(r"(float|double)_(tile|ahead)_(\d)_(\d)_(\d)", loop.symbol)):
            continue
        dtype, kind, form = match[1], match[2], tuple(map(int, match.groups()[2:]))
        each = form[0] * form[1] * form[2]
        if not loop.by_lane or loop.multiply_adds < each or (loop.multiply_adds == each and form[0] == 1):
            continue  # the k that are left over
        way = "along" if loop.multiply_adds > each else "across"
        ratio = len(loop.instructions) / loop.multiply_adds
        # A single panel of one row waits for its sums, and not for instructions.
        limited = form[2] == WHOLE and form[:2] != (1, 1) and (way == "along" or form[0] == 4)
        name = f"{dtype} {kind} {'x'.join(map(str, form))} {way}"
        counts = f"{len(loop.instructions)} / {loop.multiply_adds}"
        print(f"  {name:28} {counts:>9} = {ratio:.2f}{'' if limited else '  (no limit)'}")
        if limited and ratio > MOST:
            wrong.append(f"{name}: {ratio:.3f} instructions for each multiply-add, more than {MOST}")
        if loop.on_stack:
            wrong.append(f"{name}: {loop.on_stack} accesses to the stack in the loop")
        if limited:
            seen.add((dtype, kind, *form[:2], way))
    for dtype in TYPES:
        wanted = [(*form, "along") for form in FORMS if form[1:] != (1, 1)] + [("tile", 4, 1, "across")]
        wanted += [("ahead", rows, 1, "along") for rows in (3, 4)]
        wrong += [f"no main loop found: {dtype} {form}" for form in wanted if (dtype, *form) not in seen]
    return wrong


def functions_with_loops(module):
    """Names of the functions of cgru/kernels/MODULE.pxd with loops that compute from arrays."""
    names, name, before = [], None, ""
    for line in (KERNELS / f"{module}.pxd").read_text().splitlines():
        if match := re.match(r"cdef inline [\w ]+? \*?(\w+)\(", line):
            name = match[1]
        elif re.match(r"\s+for \w+ in range", before) and re.search(r"=.*\w\[", line) and name not in names:
            names.append(name)
        before = line
    return names


def updates(found):
    """Print the loops of the updates; what is wrong with them."""
    wrong = []
    print("loops of the elementwise updates, on vectors / number by number (what is left over), in float and double")
    for module in UPDATES:
        for function in functions_with_loops(module):
            counts = []
            for fused, vector in enumerate(TYPES.values()):
                pattern = re.compile(rf"__pyx_fuse_{fused}(_{fused})?__pyx_f_\d+{module}_{function}(\.\w+)*")
                mine = [loop for loop in found if any(map(pattern.fullmatch, loop.functions))]
                counts.append((sum(loop.uses(vector) for loop in mine), sum(not loop.uses(vector) for loop in mine)))
            said = "   ".join(f"{vectors:2} / {numbers}" for vectors, numbers in counts)
            print(f"  {module + ' ' + function:32} {said}")
            wrong += [f"{module}.pxd, {function}: no loop on vectors" for vectors, _ in counts if not vectors]
    return wrong


def main():
    [path] = sys.argv[1:]
    found = list(loops(path))
    wrong = tiles(found) + updates(found)
    called = {line.split()[-1] for line in run("nm", "--undefined-only", path).splitlines()}
    wrong += [f"calls {name}" for name in sorted(called) if name in LIBM or name.removesuffix("f") in LIBM]
    print("calls of C:", *sorted(name for name in called if not re.match(r"_?Py", name)))
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
