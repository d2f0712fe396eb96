"""Settings every test shares; they must come before JAX is imported."""

import os

# Tests compile hundreds of small programs once: compile quickly, run slowly.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=1"
    " --xla_llvm_disable_expensive_passes=true"
).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
