"""Settings every test shares; they must come before JAX is imported."""

import contextlib
import os
import re
from importlib.metadata import version
from pathlib import Path

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


DATA = Path(
    os.environ.get("FEDJAX_REC_DATA")
    or Path(__file__).resolve().parents[2] / "shared" / "data"
)
_GOOD_REASON = re.compile(r"could not import|is not installed|no network")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fails a session in which tests were skipped although the data are present.

    Only a missing package or network is a reason to skip then.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput") or not DATA.is_dir():
        return
    skips = [str(report.longrepr) for report in reporter.stats.get("skipped", ())]
    if bad := [reason for reason in skips if not _GOOD_REASON.search(reason)]:
        reporter.write_line(
            f"\n{len(bad)} tests were skipped although {DATA} is present, for another "
            "reason than a missing package or network",
            red=True,
        )
        session.exitstatus = exitstatus or pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def minilm():
    """The folder of MiniLM in the ordinary cache, fetched by the first who asks."""
    from fedjax_rec.backbones.fetch import fetch
    from fedjax_rec.storage.errors import Unreachable

    try:
        return fetch("minilm", CACHE or "~/.cache/fedjax_rec")
    except Unreachable as error:
        pytest.skip(f"no network: {error}")


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
