"""The process that a worker runs in: how it is started, asked and ended."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.options import Options
from benchmarks.systems import GPU_SYSTEMS, system_of

ROOT = Path(__file__).parent.parent
TIMEOUT = 900.0  # seconds that an answer may take: some peers compile for a minute

SAMPLES, SAMPLE_PAUSE = 11, 0.02  # of how busy the machine is; seconds

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class WorkerError(Exception):
    """Why a system has no figure."""


class Worker:
    """A process that computes workloads in one system; it begins by telling the version.

    Args:
        caches: the folder for its compiled code; one that is empty and its own by default.
    """

    def __init__(self, system: str, options: Options, caches: str | None = None) -> None:
        self.own_caches = tempfile.TemporaryDirectory(prefix="graphc-bench-")
        self.errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115 - closed with the process
        python = sys.executable if system_of(system).package == "graphc" else options.python
        command = [python, "-m", "benchmarks.worker", system, str(options.threads)]
        pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        environ = environment(options.threads, caches or self.own_caches.name)
        environ["GRAPHC_BENCH_SIZE"] = "gpu" if system in GPU_SYSTEMS else "cpu"
        self.process = subprocess.Popen(command, cwd=ROOT, env=environ, **pipes)

    def answer(self) -> dict[str, Any]:
        """The next line that it says.

        Raises:
            WorkerError: it ended, or said nothing for too long, or can't do what it was asked.
        """
        output = self.process.stdout
        assert output is not None
        if not select.select([output], [], [], TIMEOUT)[0]:
            raise WorkerError(f"no answer in {TIMEOUT:.0f} s")
        line = output.readline()
        if not line:
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines()
            raise WorkerError(said[-1] if said else f"ended with status {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        if why := found.get("missing") or found.get("failed"):
            raise WorkerError(why)
        return found

    def ask(self, what: str, **request: Any) -> dict[str, Any]:
        """Its answer to a request; see `benchmarks.worker.ANSWERS`."""
        assert self.process.stdin is not None
        print(json.dumps({"what": what, **request}), file=self.process.stdin, flush=True)
        return self.answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            assert stream is not None
            stream.close()
        self.own_caches.cleanup()


def environment(threads: int, caches: str) -> dict[str, str]:
    """The environment of a worker: settings of threads, and where compiled code is kept."""
    folders = {"XDG_CACHE_HOME": caches, "TORCHINDUCTOR_CACHE_DIR": f"{caches}/torch"}
    folders["PYTENSOR_FLAGS"] = f"base_compiledir={caches}/pytensor"
    return {**os.environ, **dict.fromkeys(THREADS, str(threads)), **folders, "TF_CPP_MIN_LOG_LEVEL": "3"}


def warn_if_busy() -> None:
    """Say so where other processes compute: systems whose threads wait for each other by spinning then lose most."""
    others = [running - 1 for running in (_running() for _ in range(SAMPLES)) if running is not None]
    if others and median(others) > 0:
        print(f"WARNING: {median(others):.0f} other threads are computing; these ratios are no claim to make")


def _running() -> int | None:
    """How many threads Linux has running now, the one that asks included; None where it can't be asked."""
    time.sleep(SAMPLE_PAUSE)
    try:
        return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].split("/")[0])
    except OSError:
        return None
