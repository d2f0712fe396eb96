"""What `FedFM` does about LoRA's factors: its rule, its clients' ranks, its base."""

from typing import TYPE_CHECKING

from fedjax_rec.aggregators import AGGREGATORS
from fedjax_rec.aggregators.lora import LORA_AGGREGATORS, WITH_BASE
from fedjax_rec.clients.ranks import draw_ranks, with_ranks
from fedjax_rec.core.contracts import Aggregator, ClientUpdate
from fedjax_rec.models.adapters.lora import LORA_BASE

if TYPE_CHECKING:
    from fedjax_rec.algorithms.fedfm import FedFM


def check(config: "FedFM") -> None:
    """Raises a ValueError for rules and ranks that have no LoRA to be about."""
    rule, mixed = config.lora_aggregation, bool(config.ranks)
    if rule == "plain":
        if mixed or config.rank_shares:
            raise ValueError(
                f"ranks={config.ranks}, rank_shares={config.rank_shares}: clients of "
                "different ranks need a lora_aggregation other than 'plain', such as "
                "'hetlora' or 'flexlora'"
            )
        return
    kept = {"lora_a", "lora_b"} & {*config.personal, *config.fixed}
    if config.adapter != "lora" or kept or config.aggregation == "sum":
        raise ValueError(
            f"lora_aggregation={rule!r} needs adapter='lora' with both factors trained "
            f"and shared, and a mean: got adapter={config.adapter!r}, "
            f"personal={config.personal}, fixed={config.fixed}, "
            f"aggregation={config.aggregation!r}"
        )
    if mixed:
        draw_ranks(config.ranks, config.rank_shares)
        if max(config.ranks) > config.rank:
            raise ValueError(
                f"ranks={config.ranks} exceed rank={config.rank}, that of the server"
            )


def with_base(config: "FedFM") -> bool:
    """Whether the adapter has a dense correction."""
    return config.lora_aggregation in WITH_BASE


def given(config: "FedFM") -> tuple[str, ...]:
    """Groups that the server takes as the rule gives them."""
    if config.lora_aggregation in ("plain", "fedit"):
        return ()
    return ("lora_a", "lora_b", LORA_BASE)


def aggregator(config: "FedFM") -> Aggregator:
    """The rule for LoRA's groups beside that for all others."""
    inner = AGGREGATORS[config.aggregation]()
    if config.lora_aggregation == "plain":
        return inner
    return LORA_AGGREGATORS[config.lora_aggregation](
        inner, uniform="uniform" in config.aggregation, mixed=bool(config.ranks)
    )


def ranked(config: "FedFM", update: ClientUpdate) -> ClientUpdate:
    """Local training on a client's own columns, where the rule asks for them."""
    if not config.ranks and config.lora_aggregation != "hetlora":
        return update
    return with_ranks(
        update, draw_ranks(config.ranks or (config.rank,), config.rank_shares)
    )
