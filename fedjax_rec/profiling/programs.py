"""Stages and kinds of the operations of the compiled programs in a trace.

The profiler stores every program with its events, as protocol buffers (`XSpace` of
XLA's profiler, `HloProto` of XLA). Their encoding is simple, so the few fields needed
are read here without their packages: https://protobuf.dev/programming-guides/encoding
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_rec.profiling.stages import stage_of

CONTROL = ("while", "conditional", "call", "async-start", "async-done", "async-update")
"""Prefixes of operations that consist of others, which count for their time."""

COLLECTIVE = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective")
"""Prefixes of operations in which devices exchange data, and wait for the slowest."""
EXCHANGE = "exchange between devices"


class Operation(NamedTuple):
    """One operation of a program.

    Attributes:
        opcode: HLO's name, such as `fusion`.
        kind: JAX's name, such as `dot_general`; else the opcode.
        stage: see `stage_of`; `EXCHANGE`, or "" for none.
    """

    opcode: str
    kind: str
    stage: str

    @property
    def control(self) -> bool:
        """Whether it consists of other operations, which a trace has, too."""
        return self.opcode.startswith(CONTROL)


class Programs(NamedTuple):
    """Operations of programs, by the program's id and by its name.

    Attributes:
        by_id: `{program id: {operation: Operation}}`.
        by_name: the same of each program with a name, for events without an id.
    """

    by_id: dict[int, dict[str, Operation]]
    by_name: dict[str, list[dict[str, Operation]]]

    def find(self, program_id: Any, program: str, name: str) -> Operation | None:
        """An operation of a program, or `None` if the trace does not describe it."""
        operations = self.by_id.get(program_id)
        if operations is None:
            operations = next(iter(self.by_name.get(program, [])), {})
        return operations.get(name)

    def that_ran(self, ran: Iterable[tuple[str, str]]) -> "Programs":
        """With one program for each name: the one that has most operations that ran.

        A trace describes all programs of its process, several under one name.

        Args:
            ran: names of programs and operations.
        """
        names = defaultdict(set)
        for program, operation in ran:
            names[program].add(operation)
        by_name = {
            name: [max(programs, key=lambda each: len(names[name] & each.keys()))]
            for name, programs in self.by_name.items()
        }
        return self._replace(by_name=by_name)


def read_programs(path: str | Path) -> Programs:
    """All programs that an `.xplane.pb` file describes."""
    programs = Programs({}, {})
    for plane in _walk(memoryview(Path(path).read_bytes()), 1):
        if _text(_grouped(plane), 2) != "/host:metadata":
            continue
        for program in _walk(plane, 4, 2):  # a map from ids to programs
            for module in _walk(program, 5, 6, 1):
                operations = _operations(module)
                programs.by_id[next(_walk(program, 1), 0)] = operations
                name = _text(_grouped(module), 1)
                programs.by_name.setdefault(name, []).append(operations)
    return programs


def _operations(module: memoryview) -> dict[str, Operation]:
    """The operations of a program.

    Operations that XLA inserted, such as copies, have no JAX name. They belong to the
    stage of the loop or fusion that contains them.
    """
    computations = {}
    caller: dict[int, tuple[int, str]] = {}
    for computation in _walk(module, 3):
        fields = _grouped(computation)
        number = fields[5][0] if fields[5] else 0
        computations[number] = instructions = []
        for instruction in map(_grouped, fields[2]):
            metadata = _grouped(instruction[7][0]) if instruction[7] else {2: []}
            op_name = _text(metadata, 2)
            instructions.append((_text(instruction, 1), _text(instruction, 2), op_name))
            for called in _numbers(instruction[38]):
                caller[called] = (number, op_name)

    def inherited(number: int) -> str:
        while number in caller:
            number, op_name = caller[number]
            if stage := stage_of(op_name):
                return stage
        return ""

    operations = {}
    for number, instructions in computations.items():
        outer = inherited(number)
        for name, opcode, op_name in instructions:
            kind = op_name.rpartition("/")[2] or opcode
            exchange = opcode.startswith(COLLECTIVE)
            stage = EXCHANGE if exchange else stage_of(op_name) or outer
            operations[name] = Operation(opcode, kind, stage)
    return operations


def _numbers(values: list) -> Iterator[int]:
    """Repeated numbers, packed or one by one."""
    for value in values:
        if isinstance(value, int):
            yield value
        else:
            offset = 0
            while offset < len(value):
                number, offset = _varint(value, offset)
                yield number


def _text(fields: dict[int, list], number: int) -> str:
    return bytes(fields[number][0]).decode() if fields[number] else ""


def _walk(message: Any, *path: int) -> Iterator[Any]:
    """Values under a path of field numbers."""
    if not path:
        yield message
        return
    for field, value in _fields(message):
        if field == path[0]:
            yield from _walk(value, *path[1:])


def _grouped(message: memoryview) -> dict[int, list]:
    groups = defaultdict(list)
    for field, value in _fields(message):
        groups[field].append(value)
    return groups


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an int, or the bytes of a longer value."""
    offset = 0
    while offset < len(message):
        tag, offset = _varint(message, offset)
        wire = tag & 7
        if wire == 0:
            value, offset = _varint(message, offset)
        elif wire in (1, 2, 5):
            size = {1: 8, 5: 4}.get(wire)
            if size is None:
                size, offset = _varint(message, offset)
            value, offset = message[offset : offset + size], offset + size
        else:
            raise ValueError(f"not a protocol buffer: wire type {wire}")
        yield tag >> 3, value


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[offset]
        value |= (byte & 127) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 128:
            return value, offset
