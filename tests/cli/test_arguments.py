"""Flags: read from words, applied to options and an experiment."""

import dataclasses

import pytest

from fedjax_rec import (
    Experiment,
    FedAvg,
    FedMF,
    FedNCF,
    MatrixFactorization,
    PFedRec,
    SyntheticData,
)
from fedjax_rec.cli.arguments import apply_flags, read_arguments, usage
from fedjax_rec.cli.options import CheckpointOptions, Train
from fedjax_rec.core.optimizers import Adam, FedAdam
from fedjax_rec.fleet.cohorts import Available, Uniform
from fedjax_rec.storage.errors import UserError

BASE = Experiment(name="base", algorithm=FedAvg(model=MatrixFactorization(dim=8)))


def applied(*words, base=BASE):
    return apply_flags(read_arguments(words).flags, Train(), base)


def refused(*words):
    with pytest.raises(UserError) as caught:
        applied(*words)
    return str(caught.value)


def test_words_are_read_as_flags_with_values():
    words = ["--rounds", "5", "--quiet", "--seed=-1", "--cutoffs", "5", "10", "--a=b=c"]
    assert read_arguments(words) == (
        [
            ("rounds", ["5"]),
            ("quiet", []),
            ("seed", ["-1"]),
            ("cutoffs", ["5", "10"]),
            ("a", ["b=c"]),
        ],
        None,
    )
    assert read_arguments(["--seed", "1", "-h"]) == ([("seed", ["1"])], [])
    assert read_arguments(["--help", "codec", "--x"]).help == ["codec"]
    with pytest.raises(UserError, match="unexpected argument 'extra'"):
        read_arguments(["extra"])


def test_fields_and_options_are_set_whatever_their_order():
    words = ["--algorithm.client-optimizer.lr", "0.5", "--rounds", "7", "--quiet"]
    words += ["--cohort.size=9", "--algorithm.client-optimizer", "adam"]
    words += ["--cohort", "uniform", "--output", "out", "--checkpoint.every", "3"]
    options, experiment = applied(*words)
    assert options.quiet
    assert str(options.output) == "out"
    assert options.checkpoint == CheckpointOptions(every=3)
    assert experiment.rounds == 7
    assert experiment.cohort == Uniform(size=9)
    assert experiment.algorithm == FedAvg(
        model=MatrixFactorization(dim=8), client_optimizer=Adam(lr=0.5)
    )


def test_dashes_and_underscores_are_the_same():
    assert applied("--eval_every", "3") == applied("--eval-every", "3")


def test_a_part_keeps_its_values_if_it_is_of_that_kind_already():
    assert applied("--algorithm", "fedavg")[1] == BASE
    assert applied("--algorithm", "FedAvg")[1] == BASE
    assert applied("--algorithm", "fedncf")[1].algorithm == FedNCF()
    assert applied("--algorithm", "FedNCF")[1].algorithm == FedNCF()


def test_fields_of_one_part_change_together():
    """Each flag on its own would contradict the value of the other."""
    base = dataclasses.replace(
        BASE,
        algorithm=FedMF(feedback="explicit", user_l2=0.5),
    )
    words = ["--algorithm.feedback", "implicit", "--algorithm.user-l2", "1e-4"]
    for order in (words, words[2:] + words[:2]):
        algorithm = applied(*order, base=base)[1].algorithm
        assert algorithm == FedMF()


def test_values_of_every_type():
    _, experiment = applied(
        "--backbone.or-tiny", "--protocol.cutoffs", "3", "10", "--store.cache", "false",
        "--backbone.path", "none", "--execution.dtype", "float64", "--cohort",
        "available", "--cohort.over-selection", "1.5", "--cohort.trace", "a.csv",
    )  # fmt: skip
    assert experiment.backbone.or_tiny is True
    assert experiment.backbone.path is None
    assert experiment.protocol.cutoffs == (3, 10)
    assert experiment.store.cache is False
    assert experiment.execution.dtype == "float64"
    assert experiment.cohort == Available(over_selection=1.5, trace="a.csv")
    assert applied("--protocol.cutoffs", "3,10")[1].protocol.cutoffs == (3, 10)


def test_an_option_that_is_a_list_gathers_all_its_flags():
    flags = read_arguments(["--track", "a", "b", "--track", "c"]).flags
    assert apply_flags(flags, Train(), BASE)[0].track == ("a", "b", "c")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("--seed 1", "--seed 2"),
        ("--codec top_k", "--codec none"),
        ("--output a", "--output b"),
        ("--quiet", "--quiet false"),
        ("--eval-every 3", "--eval_every 4"),
        ("--protocol.cutoffs 5", "--protocol.cutoffs 5 10"),
    ],
)
def test_a_flag_has_one_value(first, second):
    message = f"{first} and {second} contradict: expected one of them"
    assert refused(*first.split(), *second.split()) == message
    assert applied(*first.split(), *first.split()) == applied(*first.split())


def test_a_folder_is_refused_where_it_is_not_read():
    for location in ("auto", "device", "host"):
        text = refused("--store.folder", "x", "--store.location", location)
        assert "is read only with location='disk'" in text
    store = applied("--store.folder", "x", "--store.location", "disk")[1].store
    assert store.folder == "x"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--rounds", "--rounds: expected one value, got 0"),
        ("--rounds 1 2", "--rounds: expected one value, got 2"),
        ("--rounds five", "--rounds five: expected a whole number"),
        ("--rounds 1.5", "--rounds 1.5: expected a whole number"),
        ("--rounds 0", "rounds must be at least 1, got 0"),
        ("--seed -1", "seed must lie in [0, 2**32), got -1"),
        ("--algorithm.proximal fast", "--algorithm.proximal fast: expected a number"),
        ("--algorithm.proximal nan", "proximal must be finite"),
        ("--algorithm.model.dim 0", "algorithm.model.dim=0: dim=0, expected a"),
        ("--quiet maybe", "--quiet maybe: expected True or False"),
        ("--protocol.ties randm", "expected one of pessimistic, optimistic, random. "
         "Did you mean random?"),
        ("--algorithm", "--algorithm: expected the name of one kind"),
        ("--algorithm fedavg fedmf", "--algorithm: expected the name of one kind"),
        ("--algorithm FedNFC", ", fedncf, pfedrec. Did you mean fedncf?"),
        ("--algorithm none", "--algorithm none: expected one of "),
        ("--algorithm fedavg+fedmf", "fedavg is not followed by a kind"),
        ("--fleet.devices a", "--fleet.devices cannot be set by a flag; use a config"),
        ("--split leave_two_out", "expected one of leave_one_out"),
        ("--checkpoint.keep 0", "--checkpoint.keep must be at least 1, got 0"),
        ("--checkpoint.every -1", "--checkpoint.every must not be negative, got -1"),
        ("--profile -1", "--profile -1: expected a number of rounds, from 1"),
        ("--resume a --output b", "leave out --output and --overwrite"),
        ("--mesh.model 2 --mesh.items 2", "split either the backbone or the item"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(words, expected):
    assert expected in refused(*words.split())


def test_an_unknown_flag_leads_to_valid_ones():
    assert "--algorithm.client-optimizer.lr" in refused("--algorithm.lr", "3")
    assert refused("--data.path", "x").endswith(
        "The fields of data: --data.num-users, --data.num-items, "
        "--data.num-interactions, --data.num-tastes, --data.seed"
    )
    assert "The nearest: --output" in refused("--ouput", "x")
    assert "The nearest: --checkpoint.every" in refused("--checkpoint.evry", "1")


def test_usage_asks_for_a_config(capsys):
    assert usage("text\n", []) == 2
    assert capsys.readouterr() == ("", "text\n")
    assert usage("text\n", ["--rounds", "3", "-h"]) == 0
    assert capsys.readouterr() == ("text\n", "")
    with pytest.raises(UserError, match=r"expected a config, such as quickstart"):
        usage("text\n", ["--rounds", "3"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(PFedRec):
    """An algorithm that no registry knows.

    Attributes:
        slope: a number.
        server_optimizer: a part with kinds.
        adapter: the name of a slot, with a plain value.
    """

    slope: float = 1.0
    server_optimizer: object = FedAdam()
    adapter: str = "plain"


def test_a_class_of_ones_own_has_flags():
    base = Experiment(name="own", algorithm=Own(), data=SyntheticData(seed=4))
    _, experiment = applied(
        "--algorithm.slope", "2", "--algorithm.server-optimizer.lr", ".5",
        "--algorithm.adapter", "x", "--algorithm.dim", "3", "--algorithm", "Own",
        base=base,
    )  # fmt: skip
    optimizer = FedAdam(lr=0.5)
    own = Own(slope=2.0, dim=3, adapter="x", server_optimizer=optimizer)
    assert experiment.algorithm == own
    assert applied("--algorithm", "own", base=base)[1] == base
    assert applied("--algorithm", "pfedrec", base=base)[1].algorithm == PFedRec()
