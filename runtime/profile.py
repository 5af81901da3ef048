"""Profiles: when each part of a run happened, on which thread, and what it achieved of what the machine can do.

A `Recorder` is filled while one run goes on; a `Profile` is what is known from one run or several: a trace that
Perfetto and chrome://tracing open, and a table of the kernels, those first that take longest.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

from graphc.cached import cached_property
from graphc.errors import ArgumentError
from graphc.files import as_path, write_atomically
from graphc.plan_text import with_unit
from graphc.runtime.work import Work

clock = time.perf_counter_ns
INTERRUPTED = 1.5  # times what its kernels usually take, one by one: a run takes that long only if it is interrupted
WIDEST = 60  # characters of a kernel's name in a table


class Peak(NamedTuple):
    """What a machine achieves at most, with as many threads as a session has.

    Attributes:
        flops: operations a nanosecond, by dtype: of multiply-adds on registers.
        bytes: read and written, a nanosecond, by a copy that is too large for the caches.
    """

    flops: dict[str, float]
    bytes: float


class Span(NamedTuple):
    """Something that happened on one thread, in nanoseconds of `time.perf_counter_ns`.

    Attributes:
        name: "" for a part of a step, which has the step's.
        step: the number of the kernel of which this is a part; None for what Python does.
        phase: which of the parts that a kernel does one after the other.
        tickets: how many pieces of work, taken one by one, this is.
    """

    name: str
    start: int
    end: int
    thread: int = 0
    step: int | None = None
    phase: int = 0
    tickets: int = 1


class Description(NamedTuple):
    """What runs.

    Attributes:
        works: what each step does, by its number.
        live: bytes of temporaries at each step.
        threads: that may take part.
        peak: measures what these threads achieve at most, where that is known.
    """

    works: Sequence[Work] = ()
    live: Sequence[int] = ()
    threads: int = 1
    peak: Callable[[], Peak] | None = None


class Recorder:
    """What happens in one run.

    Attributes:
        describe: says what runs; called after the run, as it takes time.
        skipped: nanoseconds that recording took.
    """

    def __init__(self) -> None:
        self.describe: Callable[[], Description] = Description
        self.skipped = 0
        self._told: list[Callable[[], Iterable[Span]]] = []
        self._last = clock()

    @cached_property
    def spans(self) -> Sequence[Span]:
        """What happened, in the order in which it was told."""
        return [span for tell in self._told for span in tell()]

    @property
    def total_ns(self) -> int:
        """From the beginning to what was told last, but what recording took."""
        return max([span.end for span in self.spans]) - self.spans[0].start - self.skipped

    def did(self, name: str, step: int | None = None) -> None:
        """The calling thread did this since the last thing that was told: a part of Python, or a step."""
        started, self._last = self._last, clock()
        span = Span(name, started, self._last, step=step)
        self._told.append(lambda: [span])

    def did_all(self, tell: Callable[[], Iterable[Span]]) -> None:
        """Since the last thing that was told, several threads did what this will tell."""
        self._last = clock()
        self._told.append(tell)

    def skip(self) -> None:
        """Since the last thing that was told, recording has been prepared: that is no part of a run."""
        started = self._last
        self.did("recording")
        self.skipped += self._last - started


class KernelProfile(NamedTuple):
    """What is known of a kernel from its runs.

    Attributes:
        ns: from when the first thread begins it to when the last has done; the median of the runs.
        busy: of that time, times the threads, the share in which they worked.
        roof_ns: what it would take at the machine's peak, of arithmetic or of memory, whichever is more.
        bound: which that is, "compute" or "memory"; "" if the peak isn't known, or there is nothing to do.
    """

    work: Work
    ns: float
    busy: float
    roof_ns: float
    bound: str

    @property
    def gflops(self) -> float:
        """Arithmetic operations a nanosecond; see `Work.flops`."""
        return self.work.flops / self.ns if self.ns else 0.0

    @property
    def gbytes(self) -> float:
        """Bytes a nanosecond, those of each operand and result counted once."""
        return self.work.nbytes / self.ns if self.ns else 0.0

    @property
    def of_peak(self) -> float | None:
        """The share of the peak that was achieved; above 1 where the bytes come from a cache, or by an algorithm
        that needs fewer operations than the definition."""
        return self.roof_ns / self.ns if self.roof_ns and self.ns else None


class Profile:
    """Runs of one request, recorded. `print` shows the table.

    Attributes:
        device: of the session.
        runs: at least one.
    """

    def __init__(self, device: str, runs: Sequence[Recorder]) -> None:
        self.device = device
        self.runs = tuple(runs)

    @cached_property
    def _description(self) -> Description:
        return self.runs[0].describe()

    @property
    def threads(self) -> int:
        """How many may take part."""
        return self._description.threads

    @cached_property
    def peak(self) -> Peak | None:
        """What these threads achieve at most, where that is known; measured once in a process."""
        measure = self._description.peak
        return None if measure is None else measure()

    @cached_property
    def kernels(self) -> tuple[KernelProfile, ...]:
        """All kernels, in the order of the plan."""
        found = [_durations(run) for run in self.runs]
        return tuple([self._kernel(step, work, found) for step, work in enumerate(self._description.works)])

    def _kernel(self, step: int, work: Work, runs: Sequence[dict[int, tuple[int, int]]]) -> KernelProfile:
        walls, works = zip(*[run.get(step, (0, 0)) for run in runs], strict=True)
        possible = sum(walls) * self.threads
        roofs = _roofs(work, self.peak)
        bound = max(roofs, key=roofs.__getitem__, default="")
        busy = sum(works) / possible if possible else 0.0
        return KernelProfile(work, median(walls), busy, roofs.get(bound, 0.0), bound)

    @property
    def live(self) -> Sequence[int]:
        """Bytes of temporaries at each kernel, in the order of the plan."""
        return self._description.live

    @property
    def total_ns(self) -> float:
        """A run from its first part to its last, in nanoseconds; the median of the runs."""
        return median([run.total_ns for run in self.runs])

    @property
    def kernels_ns(self) -> float:
        """In all kernels of a run, in nanoseconds; the median of the runs."""
        return median([_kernels_ns(run) for run in self.runs])

    @property
    def between_ns(self) -> float:
        """The time between kernels, in which none runs, in nanoseconds; the median of the runs."""
        return median([_within(run) - _kernels_ns(run) for run in self.runs])

    @property
    def around_ns(self) -> float:
        """Before the first kernel and after the last: feeds, results; the median of the runs."""
        return median([run.total_ns - _within(run) for run in self.runs])

    @property
    def summary(self) -> str:
        """The kernels as a table, those that take longest first."""
        return "\n".join(_table(self))

    def __str__(self) -> str:
        return self.summary

    def __repr__(self) -> str:
        return f"<Profile of {len(self.runs)} runs of {len(self.kernels)} kernels on {self.device!r}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a trace that https://ui.perfetto.dev and chrome://tracing open, atomically.

        It has a row for each thread, a counter of the bytes of temporaries, and with each kernel its operands, the
        user's line, and what it achieved.

        Raises:
            ArgumentError: the file can't be written.
        """
        events = ",\n".join(map(json.dumps, _events(self)))
        head = f'"displayTimeUnit": "ns", "otherData": {{"device": {json.dumps(self.device)}}}'
        write_atomically(path, f'{{{head}, "traceEvents": [\n{events}\n]}}\n'.encode(), ArgumentError)


def checked_path(path: str | os.PathLike[str]) -> None:
    """See, before anything runs, that a trace can be written there.

    Raises:
        ArgumentError: it is no path, or not in a folder that can be written to.
    """
    folder = as_path(path).parent
    if not os.access(folder, os.W_OK) or as_path(path).is_dir():
        problem = "is a folder" if as_path(path).is_dir() else f"{str(folder)!r} is no folder that can be written to"
        raise ArgumentError(f"profile={str(path)!r}: {problem}", hint='profile="trace.json" writes a file there')


# ------------------------------------------------------------------------------------------- what was achieved


def _durations(run: Recorder) -> dict[int, tuple[int, int]]:
    """For each step the time from its beginning to its end, and the time that threads worked on it."""
    parts: dict[tuple[int, int], list[Span]] = defaultdict(list)
    for span in run.spans:
        if span.step is not None:
            parts[span.step, span.phase].append(span)
    found: dict[int, tuple[int, int]] = {}
    for (step, _), spans in parts.items():
        wall, worked = found.get(step, (0, 0))
        wall += max([span.end for span in spans]) - min([span.start for span in spans])
        found[step] = wall, worked + sum([span.end - span.start for span in spans])
    return found


def _within(run: Recorder) -> int:
    """From the first kernel's beginning to the last one's end."""
    inside = [span for span in run.spans if span.step is not None]
    return max([span.end for span in inside]) - min([span.start for span in inside]) if inside else 0


def _kernels_ns(run: Recorder) -> int:
    return sum([wall for wall, _ in _durations(run).values()])


def _roofs(work: Work, peak: Peak | None) -> dict[str, float]:
    """Nanoseconds that a kernel takes at the peak, of what it has to do."""
    if peak is None:
        return {}
    flops = work.flops / peak.flops["float64" if work.dtype == "float64" else "float32"]
    roofs = {"memory": work.nbytes / peak.bytes, "compute": flops}
    return {name: ns for name, ns in roofs.items() if ns}


# ------------------------------------------------------------------------------------------- the table


HEADS = ("share", "time", "threads", "GFLOP/s", "GB/s", "of peak", "bound by", "kernel", "written at", "code")
LEFT = frozenset({"bound by", "kernel", "written at", "code"})


def _table(profile: Profile) -> Iterator[str]:
    count, threads = len(profile.runs), profile.threads
    inside = sum(kernel.ns for kernel in profile.kernels)
    yield (
        f"{count} {'run' if count == 1 else 'runs'} on {profile.device!r}, {threads} "
        f"{'thread' if threads == 1 else 'threads'}: {duration(profile.total_ns)} a run"
    )
    yield (
        f"{duration(profile.kernels_ns)} in {len(profile.kernels)} kernels, "
        f"{duration(profile.between_ns)} between them, {duration(profile.around_ns)} in Python around them"
    )
    if profile.kernels_ns > INTERRUPTED * inside:
        yield f"something else kept this machine busy: without interruptions the kernels take {duration(inside)}"
    if profile.peak is not None:
        flops = ", ".join(f"{rate:.3g} GFLOP/s {dtype}" for dtype, rate in profile.peak.flops.items())
        yield f"peak of these threads: {flops}, {profile.peak.bytes:.3g} GB/s read and written"
    order = sorted(profile.kernels, key=lambda kernel: -kernel.ns)
    rows = [HEADS, *[_row(kernel, inside, threads) for kernel in order]]
    shown = [k for k in range(len(HEADS)) if any(row[k] for row in rows[1:])]
    widths = {k: max([len(row[k]) for row in rows]) for k in shown}
    for row in rows:
        cells = [row[k].ljust(widths[k]) if HEADS[k] in LEFT else row[k].rjust(widths[k]) for k in shown]
        yield "  ".join(cells).rstrip()


def _row(kernel: KernelProfile, total: float, threads: int) -> tuple[str, ...]:
    work, share = kernel.work, kernel.of_peak
    what = f"{work.name}  {work.node}" if work.node and work.node not in work.name.split() else work.name
    return (
        f"{100 * kernel.ns / total:.1f} %" if total else "",
        duration(kernel.ns),
        f"{kernel.busy * threads:.1f}" if threads > 1 else "",
        _number(kernel.gflops),
        _number(kernel.gbytes),
        "" if share is None else f"{100 * share:.0f} %",
        kernel.bound,
        what if len(what) <= WIDEST else what[: WIDEST - 3] + "...",
        work.line,
        work.how,
    )


def _number(rate: float) -> str:
    """Three digits; nothing for 0."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}" if rate else ""


def duration(ns: float) -> str:
    """Nanoseconds with a unit, `1234567` as `1.23 ms`."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns"


# ------------------------------------------------------------------------------------------- the trace


def _events(profile: Profile) -> Iterator[dict[str, Any]]:
    """The events of a trace; times are microseconds from the first run's beginning."""
    process, zero = os.getpid(), profile.runs[0].spans[0].start
    kernels, live = profile.kernels, profile.live
    threads = sorted({span.thread for run in profile.runs for span in run.spans})
    yield _named("process_name", process, 0, f"graphc on {profile.device!r}")
    for thread in threads:
        yield _named("thread_name", process, thread, "caller" if thread == 0 else f"worker {thread}")
    for run in profile.runs:
        began: dict[int, int] = {}
        for span in run.spans:
            at = {"ts": (span.start - zero) / 1e3, "dur": (span.end - span.start) / 1e3}
            event = {"ph": "X", "pid": process, "tid": span.thread, **at}
            if span.step is None:
                yield event | {"name": span.name, "cat": "session"}
                continue
            kernel = kernels[span.step]
            began[span.step] = min(span.start, began.get(span.step, span.start))
            yield event | {"name": kernel.work.name, "cat": kernel.work.kind, "args": _arguments(kernel, span)}
        samples = [(start, live[step]) for step, start in sorted(began.items())]
        for start, nbytes in [*samples, (run.spans[-1].end, 0)]:
            at = {"ts": (start - zero) / 1e3}
            yield {"ph": "C", "pid": process, "name": "temporaries", **at, "args": {"live bytes": nbytes}}


def _named(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _arguments(kernel: KernelProfile, span: Span) -> dict[str, Any]:
    """What a trace says of a kernel."""
    work, share = kernel.work, kernel.of_peak
    found = {
        "step": span.step,
        "node": work.node,
        "line": work.line,
        "reads": ", ".join(work.operands),
        "writes": ", ".join(work.results),
        "bytes": with_unit(work.nbytes),
        "flops": work.flops,
        "GFLOP/s": _number(kernel.gflops),
        "GB/s": _number(kernel.gbytes),
        "of peak": "" if share is None else f"{100 * share:.0f} %",
        "bound by": kernel.bound,
        "code": work.how,
        "phase": span.phase,
        "pieces": span.tickets if span.tickets > 1 else "",
    }
    return {name: value for name, value in found.items() if value not in ("", None)}
