"""Settings every test shares; they must come before JAX is imported."""

import contextlib
import os
from importlib.metadata import version

import pytest

# Taken before any test changes it: what is fetched once is for all sessions.
CACHE = os.environ.get("FEDJAX_REC_CACHE")

# Tests compile hundreds of small programs once: compile quickly, run slowly.
_FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if version("jaxlib").startswith("0.10."):  # XLA ends the process over unknown flags
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # compiles 4 times as fast
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# As many devices whoever starts JAX first, a test or a command within one.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")


@pytest.fixture(scope="session")
def minilm():
    """The folder of MiniLM in the ordinary cache, fetched by the first who asks."""
    from fedjax_rec.backbones.fetch import fetch
    from fedjax_rec.storage.errors import Unreachable

    try:
        return fetch("minilm", CACHE or "~/.cache/fedjax_rec")
    except Unreachable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", autouse=True)
def _few_programs_at_once():
    """Lets compiled programs go before the system runs out of memory maps.

    Each takes several of the 65,530 that a process may have by default; past them XLA
    ends the process.
    """
    yield
    with contextlib.suppress(OSError), open("/proc/self/maps", "rb") as maps:
        if sum(1 for _ in maps) > 20_000:
            import jax

            jax.clear_caches()
