"""CUDA C is compiled by NVRTC where there is one, once for all processes, and what is wrong is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphc.dims import symbol
from graphc.errors import DeviceError, InternalError
from graphc.kernel import Kernel
from graphc.runtime.cache import ObjectCache
from graphc.runtime.cuda import nvrtc
from graphc.runtime.cuda.launches import NARROW, CudaCode
from graphc.runtime.cuda.prelude import prelude, translation_unit
from graphc.runtime.strided import Strided

needs_nvrtc = pytest.mark.skipif(not nvrtc.is_available(), reason="there is no NVRTC to compile CUDA C")
TEXT = 'extern "C" __global__ void kernel0(float* x) { x[threadIdx.x] = 1.0f; }'
ELF = b"\x7fELF"


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectCache:
    """A cache of the test's own."""
    made = ObjectCache(tmp_path / "graphc")
    monkeypatch.setattr(nvrtc, "object_cache", lambda: made)
    return made


@needs_nvrtc
def test_a_cubin_is_compiled_once_for_each_text_and_architecture(objects: ObjectCache) -> None:
    first = nvrtc.compile(TEXT, "sm_80")
    assert first[:4] == ELF and nvrtc.compile(TEXT, "sm_80") == first
    assert (objects.hits, objects.misses) == (1, 1)
    assert nvrtc.compile(TEXT, "sm_90") != first and nvrtc.compile(TEXT.replace("1.0f", "2.0f"), "sm_80") != first
    assert (objects.hits, objects.misses, objects.info().entries) == (1, 3, 3)


@needs_nvrtc
@pytest.mark.parametrize("wide", [False, True])
def test_what_kernels_share_is_valid_for_each_width_of_indices(objects: ObjectCache, wide: bool) -> None:
    assert nvrtc.compile(f"{prelude(wide)}\n{TEXT}", "sm_80")[:4] == ELF


@needs_nvrtc
def test_text_that_is_not_valid_is_an_error_of_graphc(objects: ObjectCache) -> None:
    with pytest.raises(InternalError, match=r"NVRTC rejects(?s:.*)oh_no"):
        nvrtc.compile("oh_no;", "sm_80")
    assert objects.info().entries == 0


@needs_nvrtc
def test_an_unknown_architecture_is_told_with_those_that_there_are(objects: ObjectCache) -> None:
    with pytest.raises(DeviceError, match=r"doesn't compile for sm_10; it knows .*sm_90"):
        nvrtc.compile(TEXT, "sm_10")


def test_a_machine_without_nvrtc_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(["/nowhere/libnvrtc.so.13"]))
    nvrtc._found.cache_clear()
    try:
        assert not nvrtc.is_available() and nvrtc.architectures() == ()
        with pytest.raises(DeviceError, match=r"nowhere(?s:.*)hint: pip install"):
            nvrtc.compile(TEXT, "sm_90")
    finally:
        nvrtc._found.cache_clear()


# ------------------------------------------------------------------------------------------- the code in the making


def copying() -> CudaCode:
    """A kernel that copies n rows of 3."""
    n = symbol("n")
    code = CudaCode(Kernel(None, (), ()))
    code.span(3 * n)
    frame = code.launch(n, 32)
    with frame.block(f"if (threadIdx.x < 3 && blockIdx.x < {frame.size(n)})"):
        source, target = (Strided(place, 0, 0, (3, 1), "float32") for place in ("read", "write"))  # type: ignore[arg-type]
        frame.line(f"{frame.at(target, ['blockIdx.x', 'threadIdx.x'])} = {frame.at(source, ['blockIdx.x', '0'])};")
    return code


def test_parameters_appear_as_they_are_named() -> None:
    kernel = copying().finished()
    assert "kernel0(const long long n0_, float* w0, const float* r0)" in kernel.source
    assert "const Index n0 = (Index)n0_;" in kernel.source
    assert "w0[(blockIdx.x) * 3 + (threadIdx.x)] = r0[(blockIdx.x) * 3];" in kernel.source
    (launch,) = kernel.launches
    assert [type(argument).__name__ for argument in launch.arguments] == ["Size", "Pointer", "Pointer"]


def test_indices_are_wide_where_something_does_not_fit() -> None:
    kernel = copying().finished()
    assert not kernel.is_wide({"n": NARROW // 3}) and kernel.is_wide({"n": NARROW // 3 + 1})
    assert "typedef int Index" in translation_unit(kernel, {"n": 7})
    assert "typedef long long Index" in translation_unit(kernel, {"n": NARROW})


def test_workspace_is_taken_in_aligned_pieces_and_counts_as_a_span() -> None:
    code = copying()
    assert [code.workspace(100), code.workspace(4), code.workspace(1)] == [0, 128, 192]
    kernel = code.finished()
    assert kernel.workspace == 256 and 256 in kernel.spans
