"""Each way in which a core is computed on a GPU: its printed text is the one that was looked at, and NVRTC takes it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from graphc.dims import symbols_of
from graphc.ir import Node, toposort
from graphc.runtime.cuda import nvrtc
from graphc.runtime.cuda.prelude import prelude
from graphc.types import np_dtype
from tests.cuda_cores import Case, run_all
from tests.cuda_host import needs_compiler
from tests.cuda_kinds import GOLDENS, KINDS, PRODUCTS, kernel_of, options_of, printed

FRAME_SIZE, SIZED = 0x11, 0x04  # an attribute of a cubin, and the form of those that have a size

LARGE = ("gemm_tf32",)  # takes a CPU minutes
SIZES = dict(n=50, m=70, k=30, b=2, h=12, w=13, length=20000)

each_kind = pytest.mark.parametrize("kind", KINDS)


def case_of(kind: str) -> Case:
    """A kind's program, with numbers for its leaves."""
    outputs = KINDS[kind]()
    leaves = [node for node in toposort([outputs]) if node.op.kind == "placeholder"]
    names = sorted({str(name) for leaf in leaves for dim in leaf.shape for name in symbols_of(dim)})
    sizes = {name: SIZES[name] for name in (*names, *(["n"] if not leaves else []))}
    feeds = {leaf: numbers(leaf, sizes) for leaf in leaves}
    return Case([outputs], feeds, (7, 8, 9), **options_of(kind), **sizes)


def numbers(leaf: Node, sizes: dict[str, int]) -> Any:
    """Numbers of a leaf's type; integers are indices of five elements."""
    type = leaf.tensor_type.bind(sizes)
    rng = np.random.default_rng(0)
    x = rng.normal(size=type.shape) if np_dtype(type.dtype).kind not in "iu" else rng.integers(-5, 5, type.shape)
    return x.astype(np_dtype(type.dtype))


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


def frames(cubin: bytes) -> dict[int, int]:
    """Bytes of memory that each function of a cubin has for what doesn't fit into registers, as its section .nv.info
    says."""
    (start,), (size, count, names) = struct.unpack_from("<Q", cubin, 40), struct.unpack_from("<HHH", cubin, 58)
    heads = [struct.unpack_from("<IIQQQQ", cubin, start + size * k) for k in range(count)]
    texts = cubin[heads[names][4] :]
    found: dict[int, int] = {}
    for name, _, _, _, offset, length in heads:
        if texts[name : texts.index(b"\0", name)] != b".nv.info":
            continue
        at = offset
        while at < offset + length:
            form, attribute, value = struct.unpack_from("<BBH", cubin, at)
            if (form, attribute) == (SIZED, FRAME_SIZE):
                function, nbytes = struct.unpack_from("<II", cubin, at + 4)
                found[function] = nbytes
            at += 4 + (value if form == SIZED else 0)
    return found


@pytest.mark.skipif(not nvrtc.is_available(), reason="there is no NVRTC to compile CUDA C")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("kind", PRODUCTS)
def test_sums_stay_in_registers(kind: str, arch: str) -> None:
    found = frames(nvrtc.compile(f"{prelude(False)}\n{kernel_of(kind).source}", arch))
    assert len(found) >= kernel_of(kind).source.count("__global__")  # divisions may have functions, too
    assert not any(found.values()), found


@needs_compiler
def test_the_order_of_blocks_and_threads_does_not_matter() -> None:
    """No block reads what another one writes, and threads wait for each other wherever they must."""
    cases = {kind: case_of(kind) for kind in KINDS if kind not in LARGE}
    found = []
    for backwards in (False, True):
        run_all(list(cases.values()), backwards=backwards)
        found.append({kind: [array.tobytes() for array in case.found] for kind, case in cases.items()})
    assert [kind for kind in cases if found[0][kind] != found[1][kind]] == []
