"""Every test runs on eight virtual CPU devices, with silent rank promotion an error, compiled quickly and once."""

import importlib.metadata
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(  # a third of the time to compile; nets here are tiny. XLA ends at a flag it does not know
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith("0.10."),
)

import jax
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def golden():
    """The folder of real videos, weights and expected outputs; see ../shared/golden/README.md."""
    path = pathlib.Path(os.environ.get("VIDJAX_GOLDEN", ROOT.parent / "shared" / "golden"))
    if not path.is_dir():
        pytest.skip(f"golden data is absent: no folder {path} (set VIDJAX_GOLDEN)")
    return path
