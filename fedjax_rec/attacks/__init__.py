"""Attacks: what dishonest clients do to their messages."""

from collections.abc import Callable

from fedjax_rec.attacks.boost import boost, popular
from fedjax_rec.attacks.members import Attack, attackers
from fedjax_rec.attacks.noise import noise
from fedjax_rec.attacks.sign_flip import sign_flip

ATTACKS: dict[str, Callable[..., Attack]] = {
    "sign_flip": sign_flip,
    "noise": noise,
    "boost": boost,
}

__all__ = ["ATTACKS", "Attack", "attackers", "boost", "noise", "popular", "sign_flip"]
