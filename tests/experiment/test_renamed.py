"""Spellings of version 0.1 are valid still, or refused with the present one named."""

import re

import pytest

import fedjax_rec
from fedjax_rec import Experiment, FedAvg, FedFM
from fedjax_rec.cli.arguments import apply_flags, read_arguments
from fedjax_rec.cli.options import Train
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.fields import Field, fields_of, read_kind, shown
from fedjax_rec.experiment.names import find
from fedjax_rec.experiment.renamed import new_class, new_spelling
from fedjax_rec.storage.errors import UserError

FIELDS = [
    "name",
    "data.num_users",
    "data.num_items",
    "data.num_interactions",
    "data.num_tastes",
    "data.seed",
    "split.kind",
    "split.ties",
    "split.val",
    "split.test",
    "split.last",
    "split.seed",
    "partition.kind",
    "partition.num_clients",
    "partition.label",
    "partition.alpha",
    "partition.exponent",
    "partition.shards_per_client",
    "partition.attribute",
    "partition.seed",
    "algorithm.dim",
    "algorithm.client_lr",
    "algorithm.item_lr_scale",
    "algorithm.batch_size",
    "algorithm.local_epochs",
    "algorithm.negatives",
    "algorithm.init_scale",
    "backbone.name",
    "backbone.path",
    "backbone.or_tiny",
    "backbone.dtype",
    "backbone.max_tokens",
    "backbone.template",
    "backbone.notes",
    "backbone.shuffle_texts",
    "backbone.cache",
    "codec.name",
    "codec.fraction",
    "codec.bits",
    "codec.least",
    "codec.rank",
    "codec.columns",
    "codec.momentum",
    "codec.feedback",
    "aggregation.rule",
    "aggregation.share",
    "aggregation.q",
    "aggregation.lipschitz",
    "aggregation.tilt",
    "aggregation.groups",
    "aggregation.group_rate",
    "aggregation.power",
    "aggregation.beta",
    "aggregation.longest",
    "aggregation.temperature",
    "aggregation.step",
    "aggregation.guidance.examples",
    "aggregation.guidance.similarity",
    "aggregation.guidance.norm",
    "aggregation.guidance.agreement",
    "aggregation.guidance.staleness",
    "aggregation.guidance.loss_drop",
    "aggregation.guidance.outlier",
    "aggregation.guidance.temperature",
    "attack.kind",
    "attack.share",
    "attack.scale",
    "attack.knows",
    "attack.item",
    "attack.toward",
    "attack.popular",
    "attack.seed",
    "profile.source",
    "profile.clip",
    "profile.seed",
    "cohort.sampling",
    "cohort.size",
    "cohort.over_selection",
    "cohort.rounds_per_day",
    "cohort.time_zones",
    "cohort.trace",
    "cohort.devices",
    "cohort.device_seed",
    "protocol.candidates",
    "protocol.num_candidates",
    "protocol.candidate_seed",
    "protocol.max_users",
    "protocol.negative_pool",
    "protocol.ties",
    "protocol.evaluated",
    "protocol.selection",
    "protocol.cutoffs",
    "protocol.watch",
    "protocol.preset",
    "execution.examples_per_chunk",
    "execution.max_buckets",
    "execution.user_chunk",
    "execution.encode",
    "execution.prefix_cache",
    "execution.dtype",
    "mesh.devices",
    "mesh.model",
    "mesh.items",
    "population.store",
    "population.folder",
    "population.keep",
    "rounds",
    "eval_every",
    "seed",
    "algorithm.model",
    "algorithm.users",
    "algorithm.client_optimizer",
    "algorithm.proximal",
    "algorithm.control",
    "algorithm.clusters",
    "algorithm.clustered_by",
    "algorithm.warm_rounds",
    "algorithm.personalized",
    "algorithm.amp_sigma",
    "algorithm.amp_mixing",
    "algorithm.aggregation",
    "algorithm.server_optimizer",
    "algorithm.server_lr",
    "algorithm.server_momentum",
    "algorithm.server_tau",
    "algorithm.adapter",
    "algorithm.layers",
    "algorithm.rank",
    "algorithm.alpha",
    "algorithm.targets",
    "algorithm.bottleneck",
    "algorithm.prefix",
    "algorithm.hidden",
    "algorithm.history",
    "algorithm.history_heads",
    "algorithm.id_residual",
    "algorithm.personal",
    "algorithm.loss",
    "algorithm.user_lr",
    "algorithm.user_l2",
    "algorithm.shared_steps",
    "algorithm.query",
    "algorithm.fixed",
    "algorithm.lora_aggregation",
    "algorithm.ranks",
    "algorithm.rank_shares",
    "algorithm.adapter_lr_scale",
    "algorithm.feedback",
    "algorithm.item_l2",
    "algorithm.init",
    "algorithm.weighting",
    "data.source",
    "data.dir",
    "data.cache",
    "data.min_interactions",
    "data.top_items",
    "data.first_users",
    "data.download",
    "data.items_file",
    "data.user",
    "data.item",
    "data.rating",
    "data.timestamp",
    "data.delimiter",
    "data.encoding",
    "data.min_rating",
]
"""Every field of version 0.1."""

VALUES = {
    "codec.name": """
        none float32 bf16 int8 int4 qsgd rotated_qsgd terngrad drive sign top_k
        global_top_k top_k_qsgd row_top_k random_k threshold dgc svd power_sgd
        colr colr_touched count_sketch
    """,
    "aggregation.rule": """
        algorithm examples uniform per_row per_row_uniform sum q_fedavg tilted
        agnostic by_size by_effective_number by_magnitude by_participation
        by_trend fednova attentive median median_of_voters median_diluted
        trimmed_mean trimmed_mean_of_voters trimmed_mean_diluted
        geometric_median geometric_median_of_voters geometric_median_diluted
        krum krum_of_voters krum_diluted multi_krum multi_krum_of_voters
        multi_krum_diluted bulyan bulyan_of_voters bulyan_diluted
        centered_clipping centered_clipping_of_voters centered_clipping_diluted
        norm_bound norm_bound_of_voters norm_bound_diluted mixed_median
        mixed_median_of_voters mixed_median_diluted mixed_trimmed_mean
        mixed_trimmed_mean_of_voters mixed_trimmed_mean_diluted majority_vote
        fm_guided update_guided
    """,
    "attack.kind": """
        none sign_flip noise boost alie ipm
    """,
    "split.kind": """
        leave_one_out leave_last ratio global_time cold_items cold_users
    """,
    "partition.kind": """
        per_user iid dirichlet quantity_skew shards by_attribute drift
    """,
    "cohort.sampling": """
        all uniform poisson weighted available
    """,
    "algorithm.server_optimizer": """
        sgd momentum adam yogi adagrad
    """,
    "algorithm.adapter": """
        lora bottleneck prefix embedding none
    """,
    "algorithm.client_optimizer": """
        sgd momentum adam adagrad
    """,
    "algorithm.users": """
        personal table vector history both
    """,
}
"""Every value of version 0.1 that names a kind now."""

CLASSES = [
    "AggregationConfig",
    "AttackConfig",
    "BackboneConfig",
    "build",
    "CodecConfig",
    "CohortConfig",
    "CsvData",
    "DeviceClass",
    "Execution",
    "Experiment",
    "FedAvg",
    "FedFM",
    "FedMF",
    "FedNCF",
    "FileData",
    "Guidance",
    "MeshConfig",
    "PartitionConfig",
    "paper_compat",
    "PFedRec",
    "PopulationConfig",
    "ProfileConfig",
    "Protocol",
    "Simulation",
    "SplitConfig",
    "SyntheticData",
]
"""Every public name of version 0.1."""


NONE = Field(None, "", None)


def names_below(settings, prefix=""):
    """The fields of a dataclass, and of all kinds that its parts may be."""
    names = set()
    for name, field in fields_of(settings, prefix).items():
        names.add(name)
        if field.slot is not None and name.count(".") < 4:
            for kind in registry.SLOTS[field.slot]:
                names |= names_below(registry.load(field.slot, kind)(), f"{name}.")
    return names


@pytest.fixture(scope="module")
def present():
    """All fields that an experiment may have."""
    return names_below(Experiment(name="x"))


def assert_valid(text, present):
    """All flags in a message exist, and their kinds."""
    flags = re.findall(r"--([a-z_.-]+)(?: ((?:[a-z_0-9+]+(?:, | or )?)+))?", text)
    assert flags, text
    for flag, kinds in flags:
        path = flag.replace("-", "_")
        assert path in present, text
        slot = registry.slot_of(path) or ""
        for kind in re.split(r", | or |\+", kinds) if slot and kinds else ():
            assert kind in (*registry.SLOTS[slot], "none"), text


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name, present):
    if name in present:
        return
    with pytest.raises(UserError) as caught:
        find(dict.fromkeys(present, NONE), shown(name))
    message = str(caught.value)
    assert message.startswith(f"--{shown(name)} is now --")
    assert_valid(message.partition(" is now ")[2], present)


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in VALUES.items() for v in values.split()]
)
def test_values(name, value, present):
    if name in present:  # the field is there still, but the value may be another
        slot = registry.slot_of(name)
        assert slot is not None
        if value in (*registry.SLOTS[slot], "none", "personal", "table"):
            return
        text = new_spelling(name, [value])
    else:
        text = new_spelling(name, [value])
    assert text is not None
    algorithm = FedFM() if "adapter" in name else FedAvg()
    base = Experiment(name="x", algorithm=algorithm)
    flags = read_arguments(text.split()).flags
    assert apply_flags(flags, Train(), base)[1] is not None
    slot = name.partition(".")[0]
    if slot in registry.SLOTS and not name.startswith("algorithm"):
        # The old value as a kind, too, unless it is the name of one.
        field = fields_of(Experiment(name="x"))[slot]
        if value not in (*registry.SLOTS[slot], "none"):
            with pytest.raises(UserError, match="It is now --"):
                read_kind(slot, field, value)


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name):
    sentence = new_class(name)
    if sentence is None:
        assert getattr(fedjax_rec, name)
        return
    for new in re.findall(r"\b[A-Z]\w+", sentence.partition("now")[2]):
        assert getattr(fedjax_rec, new)
    # Both ways to reach it show the sentence.
    with pytest.raises(ImportError, match=re.escape(sentence)):
        getattr(fedjax_rec, name)
    with pytest.raises(ImportError, match=re.escape(sentence)):
        exec(f"from fedjax_rec import {name}")


def test_names_that_never_were():
    assert new_spelling("algorithm.nope") is None
    assert new_spelling("codec", ["sign"]) is None
    assert new_class("Nope") is None
    assert new_class("NopeConfig") is None
