"""Profiling: the window of rounds, reading a trace, and its summary."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from fedjax_rec.aggregators.means import weighted_mean
from fedjax_rec.core.contracts import Aggregator, Senders
from fedjax_rec.profiling.programs import EXCHANGE, Operation, Programs, read_programs
from fedjax_rec.profiling.stages import (
    AGGREGATION,
    EVALUATION,
    LOCAL_TRAINING,
    all_staged,
    stage_of,
    staged,
)
from fedjax_rec.profiling.trace import (
    Ran,
    Trace,
    covered,
    newest,
    read_trace,
    summarise_trace,
)
from fedjax_rec.profiling.window import Recording, choose_window


@pytest.mark.parametrize("rounds", range(2, 20))
@pytest.mark.parametrize("eval_every", [1, 2, 3, 5, 19])
@pytest.mark.parametrize("done", [0, 1, 3, 6])
def test_a_window_follows_compilation_and_ends_with_an_evaluation(
    rounds, eval_every, done
):
    if rounds - done < 2:
        with pytest.raises(ValueError, match="needs 2 rounds"):
            choose_window(3, done, rounds, eval_every)
        return
    first, last, warm = choose_window(3, done, rounds, eval_every)
    assert done < first < last <= rounds
    assert last == rounds or last % eval_every == 0
    evaluated = [n for n in range(done + 1, first + 1) if n % eval_every == 0]
    if warm:
        assert last - first == 3
        assert evaluated
    else:  # no three rounds follow the first evaluation
        assert rounds - (done // eval_every + 1) * eval_every < 3


def refuse(reason: object) -> None:
    pytest.fail(str(reason))


def test_programs_end_where_a_recording_begins_and_ends():
    """It shortens them alike whether or not it records."""
    watch = Recording(choose_window(3, 0, 40, 5), None, refuse, refuse)
    assert [watch(done) for done in (0, 5, 7, 8)] == [7, 2, 3, 2]
    assert watch(10) > 1000


def test_a_recording_that_cannot_begin_says_so_and_lets_the_run_go_on(tmp_path):
    reasons = []
    watch = Recording(choose_window(2, 0, 4, 2), tmp_path, refuse, reasons.append)
    jax.profiler.start_trace(tmp_path / "other")
    try:
        assert watch(2) == 2
    finally:
        jax.profiler.stop_trace()
    watch(4)
    assert len(reasons) == 1


def ran(device, start, end, stage="", kind="add", control=False, name="add.1"):
    operation = Operation("while" if control else "fusion", kind, stage)
    return Ran(device, start, end, "jit_run", name, operation)


def test_a_trace_is_added_up_by_hand():
    """Two devices, 100 ns: 0 busy in [10, 70], 1 in [0, 20] and, cut off, [90, 100]."""
    trace = Trace(
        [
            ran("CPU:0", 10, 70, control=True, kind="while"),
            ran("CPU:0", 10, 40, "local training", "dot_general"),
            ran("CPU:0", 50, 60, "local training", "tanh"),
            ran("CPU:0", 60, 65, "aggregation"),
            ran("CPU:1", 0, 20, "aggregation"),
            ran("CPU:1", 90, 130),
            ran("CPU:1", -9, 0, "aggregation"),  # before the window
        ],
        (0, 100),
        {"rounds": [(0, 50)], "evaluation": []},
    )
    summary = summarise_trace(trace, 2, 2)
    assert summary["busy"] == pytest.approx((60 + 30) / 200)
    assert summary["busy_of_devices"] == pytest.approx({"CPU:0": 0.6, "CPU:1": 0.3})
    # Of the loop's 60 ns, 45 are in operations.
    assert summary["between_operations"] == pytest.approx(15 / 200)
    # In [0, 50] device 0 is busy for 40 ns and device 1 for 20.
    assert summary["while"] == {
        "rounds": {"seconds": pytest.approx(50e-9), "busy": pytest.approx(60 / 100)}
    }
    names = [part["name"] for part in summary["parts"]]
    assert names == ["local training", "aggregation", "other, in run"]
    training = summary["parts"][0]
    assert training["seconds"] == pytest.approx(40e-9)
    assert training["fraction"] == pytest.approx(40 / 200)
    assert training["seconds_a_round"] == pytest.approx(40e-9 / 2 / 2)
    assert training["operations"] == pytest.approx({"dot_general": 0.75, "tanh": 0.25})


def test_an_idle_device_counts_and_a_trace_without_stages_names_operations():
    trace = Trace([ran("GPU:0", 0, 4), ran("GPU:0", 6, 10, name="mul.2")], None, {})
    summary = summarise_trace(trace, 2, 1)
    assert summary["busy"] == pytest.approx(8 / 20)
    assert not summary["stages"]
    assert {part["name"] for part in summary["parts"]} == {"add.1", "mul.2"}


def test_a_trace_without_operations_is_not_taken_for_an_idle_one():
    summary = summarise_trace(Trace([], (0, 100), {}), 1, 3)
    assert summary["busy"] is None
    assert summary["parts"] == []


def test_the_union_of_intervals():
    assert covered([]) == 0
    assert covered([(0, 10), (2, 3), (9, 12), (20, 21)]) == 13


def test_stages_are_found_under_transformations_and_change_no_bits():
    def square(x):
        return (x * x).sum()

    x = jnp.linspace(0, 1, 12).reshape(3, 4)
    own = jax.jit(jax.vmap(jax.grad(staged(LOCAL_TRAINING, square))))
    assert (own(x) == jax.jit(jax.vmap(jax.grad(square)))(x)).all()
    names = own.lower(x).as_text(debug_info=True)
    assert "local_training" in names
    assert stage_of("jit(f)/vmap(transpose(jvp(local_training)))/mul") == (
        "local training"
    )
    assert stage_of("jit(f)/evaluation/gathering_clients/add") == (
        "evaluation: gathering clients"
    )
    assert stage_of("jit(f)/not_a_stage/add") == ""
    bundle = all_staged(AGGREGATION, weighted_mean())
    assert isinstance(bundle, Aggregator)
    slots = jnp.arange(3)
    senders = Senders(slots=slots, ids=slots, loss=jnp.zeros(3))
    acc = bundle.update(bundle.init(x[0], 3), x, jnp.ones(3), senders)
    assert jnp.allclose(bundle.finish(acc, (), x[0])[0], x.mean(0))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The trace of a loop with two stages, and of a program with none."""
    folder = tmp_path_factory.mktemp("trace")

    @jax.jit
    def loop(x, n):
        def body(i, c):
            c = staged(LOCAL_TRAINING, lambda c: jnp.sort(c @ c, axis=0))(c)
            return staged(AGGREGATION, lambda c: c / (1 + jnp.abs(c).sum()))(c)

        return jax.lax.fori_loop(0, n, body, x)

    @jax.jit
    def other(x):
        return jnp.cumsum(x, axis=0)

    x = jnp.ones((64, 64))
    jax.block_until_ready((loop(x, 2), other(x)))
    seconds = []
    watch = Recording(choose_window(2, 0, 4, 2), folder, seconds.append, refuse)
    watch(2)
    jax.block_until_ready((loop(x, 20), other(x)))
    watch(4)
    assert len(seconds) == 1
    return folder


def test_a_real_trace_names_the_stages_of_its_operations(recorded):
    trace = read_trace(newest(recorded))
    assert trace.window is not None
    summary = summarise_trace(trace, 1, 2)
    assert summary["stages"]
    parts = {part["name"]: part for part in summary["parts"]}
    assert {"local training", "aggregation", "other, in other"} <= parts.keys()
    assert {"dot_general", "sort"} <= parts["local training"]["operations"].keys()
    assert 0 < summary["busy"] <= 1
    assert sum(part["fraction"] for part in summary["parts"]) < 1
    # The loop's body runs 20 times.
    assert sum(r.operation.kind == "dot_general" for r in trace.ran) == 20


def test_operations_are_described_as_the_compiler_describes_them(recorded):
    programs = read_programs(newest(recorded))
    (loop,) = programs.by_name["jit_loop"]
    assert loop in programs.by_id.values()
    opcodes = {operation.opcode for operation in loop.values()}
    assert {"while", "sort"} <= opcodes
    for name, operation in loop.items():
        if operation.opcode == "sort":
            assert operation.stage == "local training"
            assert programs.find(None, "jit_loop", name) == operation
    assert programs.find(None, "jit_absent", "x") is None


def test_of_programs_with_one_name_the_one_that_ran_is_found():
    """Other runs of a process leave programs of the same name."""
    small, ran, large = (
        {name: Operation("dot", "dot", stage) for name in names.split()}
        for names, stage in (("a b", "x"), ("a b c d", "y"), ("a b e f g h", "z"))
    )
    events = [("run", name) for name in "abcdd"] + [("other", "e")]
    for order in itertools.permutations((small, ran, large)):
        programs = Programs({}, {"run": list(order)}).that_ran(events)
        found = [programs.find(None, "run", name) for name in "abcd"]
        assert found == [ran[name] for name in "abcd"]


def test_an_exchange_is_no_part_of_its_stage(tmp_path):
    """A program of one all-reduce, written as the profiler stores it."""

    def field(number, value):
        if isinstance(value, int):
            return bytes([number << 3, value])
        size = len(value)
        length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
        # Numbers from 16 need a second byte.
        tag = number << 3 | 2
        head = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
        return head + length + value

    metadata = field(7, field(2, b"jit(m)/aggregation/psum"))
    instruction = field(1, b"r") + field(2, b"all-reduce") + metadata
    module = field(1, b"m") + field(3, field(1, b"e") + field(2, instruction))
    program = field(1, 9) + field(5, field(6, field(1, module)))
    plane = field(2, b"/host:metadata") + field(4, field(1, 9) + field(2, program))
    path = tmp_path / "x.xplane.pb"
    path.write_bytes(field(1, plane))
    operation = read_programs(path).find(9, "", "r")
    assert operation == ("all-reduce", "psum", EXCHANGE)


def test_the_evaluation_is_a_stage():
    assert stage_of(f"jit(f)/{EVALUATION}/dot_general") == EVALUATION


def test_a_folder_without_a_trace_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no trace"):
        newest(tmp_path)
