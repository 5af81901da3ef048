"""What holds for every test: passes verify their output, and random examples are the same in every run.

Machine code is kept in a folder of the checkout, so that tests neither fill the user's cache nor depend on it.
"""

import os
from pathlib import Path

import hypothesis
import pytest

import graphc as gc

os.environ.setdefault("GRAPHC_VERIFY", "1")
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".test-cache")

hypothesis.settings.register_profile("graphc", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("sweep", hypothesis.settings.get_profile("graphc"), max_examples=1700)
hypothesis.settings.load_profile("graphc")


@pytest.fixture(params=("reference", "cpu", "plan"))
def session(request):
    """A session on each device, in a graph of its own."""
    with gc.Graph(), gc.Session(device=request.param) as session:
        yield session
