"""The machine that runs the code: its features, its vector width, its caches, how many threads it allows."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any


@dataclass(frozen=True)
class Host:
    """What code is generated for.

    Attributes:
        triple, cpu, features: as LLVM names them.
        vector_bytes: of the vectors that the code uses: 64 with AVX-512, 32 with AVX2, 16 elsewhere.
        registers: vector registers.
        cores: that work may be shared by, at most.
    """

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    cores: int = 1

    def lanes(self, itemsize: int) -> int:
        """Elements of this many bytes in one vector."""
        return self.vector_bytes // itemsize


AVX2 = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+popcnt,+sse4.2"
HOSTS = {
    "avx512": Host("x86_64-unknown-linux-gnu", "skylake-avx512", "", 64, 32),
    "avx2": Host("x86_64-unknown-linux-gnu", "haswell", "", 32, 16),
    "neon": Host("aarch64-unknown-linux-gnu", "neoverse-n1", "", 16, 32),
}  # whose code can be made, and assembled, on any machine


NEEDED = {"x86_64": ("avx2", "fma", "f16c"), "aarch64": (), "arm64": ()}  # features without which NumPy is faster


def lacking() -> str:
    """What the processor lacks to run native code; "" if nothing.

    Raises:
        ImportError, OSError: llvmlite can't be loaded.
    """
    import llvmlite.binding as llvm

    architecture = llvm.get_process_triple().split("-")[0]
    if architecture not in NEEDED:
        return f"an architecture that code is made for: it is {architecture}, not {' or '.join(NEEDED)}"
    found: dict[str, bool] = dict(llvm.get_host_cpu_features())
    return ", ".join(name for name in NEEDED[architecture] if not found.get(name))


@cache
def this_host() -> Host:
    """The host that the process runs on."""
    import llvmlite.binding as llvm

    initialise()
    features = llvm.get_host_cpu_features()
    found: dict[str, bool] = dict(features)
    triple = llvm.get_process_triple()
    wide = all(found.get(name) for name in ("avx512f", "avx512bw", "avx512dq", "avx512vl"))
    width = 64 if wide else 32 if found.get("avx2") and found.get("fma") else 16
    registers = 32 if wide or "aarch64" in triple else 16
    return Host(triple, llvm.get_host_cpu_name(), features.flatten(), width, registers, available_threads())


def narrowed(host: Host, vector_bytes: int) -> Host:
    """A host as one that has narrower vectors, if its own are wider."""
    return replace(host, vector_bytes=vector_bytes, registers=16) if vector_bytes < host.vector_bytes else host


# Passes of LLVM that stay off in this process. They take two fifths of its time, and code is as fast without them:
# `builder` writes what loops add up in the form that processors have instructions for, addresses where they are used,
# and instructions in the order in which they shall stand.
OPTIONS = (
    "-disable-lsr",
    "-enable-misched=0",
    "-disable-cgp",
    "-disable-constant-hoisting",
    "-disable-postra-machine-licm",
)


@cache
def initialise() -> None:
    """Prepare LLVM for this machine."""
    import llvmlite.binding as llvm

    for option in OPTIONS:
        llvm.set_option("graphc", option)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


@cache
def _initialise_others() -> None:
    """Prepare LLVM for all other machines, too."""
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def target_machine(host: Host, *, plain: bool = False) -> Any:
    """A new LLVM target machine; each thread needs its own.

    Args:
        plain: whether it compiles as fast as it can, and code is as it comes.
    """
    import llvmlite.binding as llvm

    initialise()
    if host.triple != llvm.get_process_triple():
        _initialise_others()
    target = llvm.Target.from_triple(host.triple)
    return target.create_target_machine(
        cpu=host.cpu, features=host.features, opt=0 if plain else 2, reloc="pic", codemodel="default", jit=True
    )


def available_threads() -> int:
    """Cores that this process may use: its affinity, and the quotas of its control groups, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = cgroup_quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, min([cores, *map(math.ceil, quotas)]))


def cgroup_quotas(membership: Path, root: Path) -> list[float]:
    """The cores that the control groups of a process allow, and those around them; none without a limit.

    Args:
        membership: the file that names them, in lines of `number:controllers:path`, without controllers in version 2.
        root: where the groups are mounted. In a container the group at the mount is often the process's own, and the
            path that is named doesn't exist.
    """
    found = []
    for line in _text(membership).splitlines():
        controllers, path = line.split(":", 2)[1:]
        version1 = "cpu" in controllers.split(",")
        if controllers and not version1:
            continue
        folder, read = (root / "cpu", _quota_1) if version1 else (root, _quota_2)
        for part in ["", *PurePosixPath(path).parts[1:]]:
            folder = folder / part
            found += [quota for quota in [read(folder)] if quota is not None]
    return found


def _quota_1(folder: Path) -> float | None:
    return _cores(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _quota_2(folder: Path) -> float | None:
    return _cores(*f"{_text(folder / 'cpu.max')} max max".split()[:2])


def _cores(quota: str, period: str) -> float | None:
    """Microseconds of a period that may be used, as cores; -1 and `max` are no limit."""
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
