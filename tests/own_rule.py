"""A user's file with an aggregation rule, and the registry without it afterwards."""

import copy

import pytest

from fedjax_rec.experiment import own_module, registry

TEXT = '''
    import dataclasses

    import jax.numpy as jnp

    import fedjax_rec as fr
    from fedjax_rec.aggregators import fold


    @fr.kind("aggregation"NAME)
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Capped:
        """A mean with weights of at most `cap`.

        Attributes:
            cap: largest weight.
        """

        cap: float = 5.0

        def build(self, context):
            def weigh(deltas, weights, senders, lengths):
                return jnp.minimum(weights, self.cap)

            return fold.mean(weigh)
'''
"""NAME stands for more arguments of `kind`."""


@pytest.fixture
def no_kinds(monkeypatch):
    """The registry as it was, after a test, and no modules of other tests."""
    monkeypatch.setattr(registry, "SLOTS", copy.deepcopy(registry.SLOTS))
    monkeypatch.setattr(registry, "OWN", {})
    monkeypatch.setattr(own_module, "_PREFIX", "test_config_")
