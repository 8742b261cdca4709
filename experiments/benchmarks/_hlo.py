"""What the kernels of a compiled program read and write, from its text."""

import re
from collections import defaultdict
from typing import NamedTuple

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0}
_ARRAY = re.compile(r"\b([a-z]+\d*|pred|token)\[([\d,]*)\]")
_LINE = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\([^=]*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
# these name memory and move nothing; what a loop moves depends on how often it runs
_FREE = {"parameter", "get-tuple-element", "bitcast", "tuple", "constant", "while"}


class Kernel(NamedTuple):
    """One launch: its name, the bytes that it reads and those that it writes."""

    name: str
    read: int
    written: int


class _Instruction(NamedTuple):
    name: str
    shape: str
    op: str
    rest: str

    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split(")")[0])


def nbytes(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple.

    >>> nbytes("(f32[2,3]{1,0}, bf16[4]{0}, s32[])")
    36
    """
    total = 0
    for dtype, sizes in _ARRAY.findall(shape):
        if dtype not in _BYTES:
            raise ValueError(f"unknown dtype {dtype} in {shape}")
        count = 1
        for size in filter(None, sizes.split(",")):
            count *= int(size)
        total += count * _BYTES[dtype]
    return total


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """The instructions of every computation, and the name of the one that is run."""
    found: dict[str, list[_Instruction]] = {}
    entry = current = None
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")) and line.rstrip().endswith("{"):
            current = re.match(r"(?:ENTRY )?%?([\w.\-]+)", line).group(1)
            found[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        elif current and (match := _LINE.match(re.sub(r"/\*.*?\*/", "", line))):
            found[current].append(_Instruction(*match.groups()))
    if entry is None:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY")
    return found, entry


def _reads(fused: list[_Instruction]) -> list[int]:
    """Bytes that a fusion reads of each operand: all, or the slices of one that is only sliced."""
    parameters = {int(i.rest.split(")")[0]): i for i in fused if i.op == "parameter"}
    users = defaultdict(list)
    for instruction in fused:
        for operand in instruction.operands() if instruction.op != "parameter" else ():
            users[operand].append(instruction)
    reads = []
    for _, parameter in sorted(parameters.items()):
        uses = users[parameter.name]
        size = nbytes(parameter.shape)
        if uses and all(use.op in ("slice", "dynamic-slice") for use in uses):
            size = min(size, sum(nbytes(use.shape) for use in uses))
        reads.append(size)
    return reads


def kernels(text: str) -> list[Kernel]:
    """The kernels of a program compiled for a GPU; an operand that a kernel reads twice comes from memory once.

    Loops (``while``) are left out: those of optimizers run at few steps.
    """
    computations, entry = _computations(text)
    found = []

    def walk(name: str) -> None:
        shapes = {i.name: i.shape for i in computations[name]}
        for instruction in computations[name]:
            if instruction.op in _FREE:
                continue
            if instruction.op == "call":
                walk(re.search(r"to_apply=%([\w.\-]+)", instruction.rest).group(1))
                continue
            operands = instruction.operands()
            if instruction.op == "fusion":
                reads = _reads(computations[re.search(r"calls=%([\w.\-]+)", instruction.rest).group(1)])
            else:
                reads = [nbytes(shapes[operand]) for operand in operands]
            most: dict[str, int] = {}
            for operand, size in zip(operands, reads, strict=True):
                most[operand] = max(size, most.get(operand, 0))
            found.append(Kernel(instruction.name, sum(most.values()), nbytes(instruction.shape)))

    walk(entry)
    return found
