"""What holds for every test: passes verify their output, and random examples are the same in every run.

Machine code is kept in a folder of the checkout, so that tests neither fill the user's cache nor depend on it.
"""

import os
from pathlib import Path

import hypothesis
import pytest
from cuda_driver import DEVICES, on_host, without_gpu
from fake_cupy import FakeCublas, FakeCupy
from hypothesis.internal.conjecture import providers

import graphc as gc
from graphc import eager as ge
from graphc.exporters import images
from graphc.runtime.cuda import cupy_driver, target

os.environ.setdefault("GRAPHC_VERIFY", "1")
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".test-cache")

hypothesis.settings.register_profile(
    "graphc",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # no time of a busy machine fails a test
)
hypothesis.settings.register_profile("sweep", hypothesis.settings.get_profile("graphc"), max_examples=1700)
hypothesis.settings.load_profile("graphc")

# Hypothesis draws constants of the modules that are imported: examples would depend on which tests ran before.
providers._get_local_constants = lambda: providers._local_constants

images.TIMEOUT = 600  # seconds: on a busy machine a layout takes long


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """The name of each device; "played" is "cuda" over the host's memory."""
    if request.param != "played":
        return request.param
    on_host(monkeypatch)
    return "cuda"


@pytest.fixture
def session(device):
    """A session on each device, in a graph of its own."""
    with gc.Graph(), gc.Session(device=device) as session:
        yield session


@pytest.fixture
def cupy(monkeypatch):
    """A stand-in for CuPy, which all sessions on "cuda" use; `cublas` is that for cuBLAS.

    Its pool gives a block that is free to whoever asks next, and overwrites it.
    """
    fake = FakeCupy()
    fake.cublas = FakeCublas(fake._do)
    monkeypatch.setattr(cupy_driver, "_library", lambda runtime: fake.cublas)
    monkeypatch.setattr(cupy_driver, "compile", lambda text, arch: text.encode())
    monkeypatch.setattr(target, "opened", lambda: cupy_driver.CupyDriver(fake))
    return fake


@pytest.fixture
def as_a_thread_begins():
    """The modes and draws that a thread begins with in eager execution, and a graph of its own."""
    with gc.Graph(), ge.set_grad_enabled(True), ge.set_training(True):
        ge.manual_seed(0)
        yield


def pytest_collection_modifyitems(items):
    """Where there is no GPU, what needs one is skipped; `make test-gpu`, which has seen one, insists."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    why = without_gpu() if marked else ""
    if why and os.environ.get("GRAPHC_TEST_GPU"):
        raise pytest.UsageError(f"the GPU can't be used: {why}")
    for item in marked if why else ():
        item.add_marker(pytest.mark.skip(reason=why))
