"""Each way in which a core is computed on a GPU: its printed text is the one that was looked at, and NVRTC takes it."""

from __future__ import annotations

import pytest

from graphc.runtime.cuda import nvrtc
from graphc.runtime.cuda.prelude import prelude
from tests.cuda_kinds import GOLDENS, KINDS, kernel_of, printed

each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_the_text_is_the_one_that_was_looked_at(kind: str) -> None:
    golden = GOLDENS / f"{kind}.cu"
    assert printed(kernel_of(kind)) == golden.read_text(), f"see {golden}; python -m tests.cuda_kinds writes all anew"


def test_no_text_is_left_over() -> None:
    assert {path.stem for path in GOLDENS.iterdir()} == set(KINDS)


@pytest.mark.skipif(not nvrtc.is_available(), reason="there is no NVRTC to compile CUDA C")
@pytest.mark.parametrize(("arch", "wide"), [("sm_80", False), ("sm_90", False), ("sm_90", True)])
@each_kind
def test_nvrtc_takes_the_text(kind: str, arch: str, wide: bool) -> None:
    assert nvrtc.compile(f"{prelude(wide)}\n{kernel_of(kind).source}", arch)[:4] == b"\x7fELF"
