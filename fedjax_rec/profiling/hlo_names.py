"""What each operation of the compiled programs in a trace belongs to.

The profiler stores every program beside its events, as protocol buffers (`XSpace` of
XLA's profiler, `HloProto` of XLA). Their encoding is simple, so the few fields that are
wanted are read here without their packages: https://protobuf.dev/programming-guides/encoding
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_rec.profiling.stages import stage_of

CONTROL = ("while", "conditional", "call", "async-start", "async-done", "async-update")
"""Operations that consist of others, whose time is theirs."""


COLLECTIVE = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective")
"""How operations begin in which devices exchange data, and wait for the slowest."""
EXCHANGE = "exchange between devices"


class Operation(NamedTuple):
    """One operation of a program.

    Attributes:
        opcode: of HLO, such as `fusion`.
        kind: what it does in JAX's words, such as `dot_general`; else the opcode.
        stage: of `stage_of`, `EXCHANGE`, or "" for none.
    """

    opcode: str
    kind: str
    stage: str


class Names(NamedTuple):
    """Operations of programs, by the program's id and by its name.

    Attributes:
        by_id: `{program id: {operation: Operation}}`.
        by_name: the same by the program's name, where an event tells no id.
    """

    by_id: dict[int, dict[str, Operation]]
    by_name: dict[str, dict[str, Operation]]

    def find(self, program_id: Any, program: str, name: str) -> Operation | None:
        """An operation of a program, or `None` where the trace does not describe it."""
        known = self.by_id.get(program_id) or self.by_name.get(program) or {}
        return known.get(name)


def read_names(path: str | Path) -> Names:
    """All programs that an `.xplane.pb` file describes; none where it has none."""
    by_id, by_name = {}, {}
    for plane in _all(memoryview(Path(path).read_bytes()), 1):
        fields = _grouped(plane)
        if _text(fields, 2) != "/host:metadata":
            continue
        for entry in fields[4]:  # a map from ids to event metadata: one a program
            for metadata in _all(entry, 2):
                program = _grouped(metadata)
                for stat in program[5]:
                    for proto in _all(stat, 6):
                        for module in _all(proto, 1):
                            known = _operations(module)
                            by_id[_number(program, 1)] = known
                            by_name[_text(_grouped(module), 1)] = known
    return Names(by_id, by_name)


def _operations(module: memoryview) -> dict[str, Operation]:
    """The operations of a program.

    What XLA put in itself, such as a copy, has no name of JAX's. It belongs to the
    stage of the loop or fusion in whose body it stands.
    """
    computations = {}
    caller: dict[int, tuple[int, str]] = {}
    for computation in _all(module, 3):
        fields = _grouped(computation)
        instructions = []
        number = _number(fields, 5)
        for instruction in fields[2]:
            own = _grouped(instruction)
            metadata = _grouped(own[7][0]) if own[7] else defaultdict(list)
            op_name = _text(metadata, 2)
            instructions.append((_text(own, 1), _text(own, 2), op_name))
            for called in _called(own[38]):
                caller[called] = (number, op_name)
        computations[number] = instructions

    def inherited(number: int) -> str:
        while number in caller:
            number, op_name = caller[number]
            if stage := stage_of(op_name):
                return stage
        return ""

    found = {}
    for number, instructions in computations.items():
        around = inherited(number)
        for name, opcode, op_name in instructions:
            kind = op_name.rpartition("/")[2] or opcode
            stage = stage_of(op_name) or around
            if opcode.startswith(COLLECTIVE):
                stage = EXCHANGE
            found[name] = Operation(opcode, kind, stage)
    return found


def _called(values: list) -> Iterator[int]:
    for value in values:  # packed or one by one
        if isinstance(value, int):
            yield value
        else:
            at = 0
            while at < len(value):
                number, at = _varint(value, at)
                yield number


def _text(fields: dict[int, list], number: int) -> str:
    return bytes(fields[number][0]).decode() if fields[number] else ""


def _number(fields: dict[int, list], number: int) -> int:
    return fields[number][0] if fields[number] else 0


def _all(message: memoryview, number: int) -> Iterator[Any]:
    return (value for field, value in _fields(message) if field == number)


def _grouped(message: memoryview) -> dict[int, list]:
    found = defaultdict(list)
    for field, value in _fields(message):
        found[field].append(value)
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an int, or the bytes of what is longer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(message, at)
        elif wire in (1, 2, 5):
            size = {1: 8, 5: 4}.get(wire)
            if size is None:
                size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"not a protocol buffer: wire type {wire}")
        yield tag >> 3, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
