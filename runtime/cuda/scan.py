"""Scans along an axis on a GPU: running sums and linear recurrences.

A step changes a state: it adds to it, or makes `factor * state + term` of it. Steps one after the other are one step
again, so that a line is scanned in parallel (G. Blelloch, "Prefix Sums and Their Applications", 1990): threads join the
steps of a few neighbours each, the joined ones are scanned as by P. Kogge and H. Stone, and every thread goes through
its own from the state that it finds. A team does a line: one thread, where other lines lie side by side or lines are
short, a warp, or a block. Where there are fewer lines than the GPU has room for, long ones are cut into parts: reduced,
then scanned. That reads them twice; scans that read once by looking back at what other blocks have done so far (D.
Merrill and M. Garland, 2016) join in an order that changes from run to run, and so would the bits of floats.

A factor that isn't finite isn't joined, for inf * 0 is no factor of what comes after: one thread goes through its tile.
The product of others is kept with an exponent of its own, as it may be too large or too small where no state is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from graphc.dims import Dim, ceil_div, product
from graphc.ir import Node
from graphc.op import Op
from graphc.ops.scan import cumsum_op, recurrence_op
from graphc.passes.sizes import guess
from graphc.runtime.cuda import lanes as regions
from graphc.runtime.cuda.cores import is_multiple, operand_or_number
from graphc.runtime.cuda.grids import THREADS, each, unravelled
from graphc.runtime.cuda.launches import CudaCode, Frame
from graphc.runtime.cuda.scalars import MEMORY, loaded, number, stored
from graphc.runtime.strided import Strided

WARP = 32
SHORT = 32  # elements of a line up to which a thread does it alone
BY_WARPS = 1024  # and up to which a warp does
PARTS = {1: 256, WARP: BY_WARPS, THREADS: 4096}  # elements of a part, by threads of a team
EACH = {1: 8, WARP: 4, THREADS: 4}  # neighbours that a thread of it loads at once
FULL = 1 << 16  # threads that fill a GPU
TYPES = {"float64": "double", "float32": "float", "float16": "float", "bfloat16": "float", "int64": "u64"}  # else u32

STEPS = """\
// A step that adds to a state, and one that makes factor * 2^exponent * state + term of it.
template <typename T> struct Shift {
    typedef T State;
    T term;
    static __device__ __forceinline__ Shift none() { return Shift{T(0)}; }
    __device__ __forceinline__ Shift then(const Shift& next) const { return Shift{T(term + next.term)}; }
    __device__ __forceinline__ T after(T state) const { return state + term; }
    __device__ __forceinline__ bool is_regular() const { return true; }
};
template <typename T> struct Affine {
    typedef T State;
    static constexpr bool IS_FLOAT = T(0.5) != T(0);
    T factor, term;
    int exponent;
    static __device__ __forceinline__ Affine none() { return Affine{T(1), T(0), 0}; }
    __device__ __forceinline__ Affine then(const Affine& following) const {
        const Affine next = following.normal();
        const Affine both = {factor * next.factor, next.scaled(term) + next.term, exponent + next.exponent};
        return both.normal();
    }
    __device__ __forceinline__ T after(T state) const { return scaled(state) + term; }
    __device__ __forceinline__ bool is_regular() const { return factor - factor == T(0); }
    __device__ __forceinline__ T scaled(T state) const {
        if constexpr (IS_FLOAT) {
            if (exponent != 0 && state - state == T(0)) {
                int more = 0;
                const T fraction = frexp(state, &more);
                return ldexp(factor * fraction, exponent + more);
            }
        }
        return factor * state;
    }
    // With a factor whose product with another one neither overflows nor is rounded to 0.
    __device__ __forceinline__ Affine normal() const {
        if constexpr (IS_FLOAT) {
            const T size = factor < T(0) ? -factor : factor;
            if (is_regular() && factor != T(0) && (size < T(1e-9) || size > T(1e9))) {
                int more = 0;
                const T fraction = frexp(factor, &more);
                return Affine{fraction, term, exponent + more};
            }
        }
        return *this;
    }
};
"""

TEAMS = """\
// Of TEAM neighbouring threads (a warp or the block): the steps before a thread's own, joined, and those of all.
template <int TEAM, class S> __device__ __forceinline__ S steps_before(const S& own, S& all) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    S upto = own;
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
        const S other = shuffled(upto, lane >= by ? lane - by : lane, 32);
        if (lane >= by) upto = other.then(upto);
    }
    S before = shuffled(upto, lane > 0 ? lane - 1 : 0, 32);
    if (lane == 0) before = S::none();
    if constexpr (TEAM == 32) {
        all = shuffled(upto, 31, 32);
        return before;
    } else {
        __shared__ S of_warps[TEAM / 32];
        __syncthreads();  // the last use of it is over
        if (lane == 31) of_warps[warp] = upto;
        __syncthreads();
        S earlier = S::none();
        all = S::none();
        for (int k = 0; k < TEAM / 32; ++k) {
            if (k == warp) earlier = all;
            all = all.then(of_warps[k]);
        }
        return earlier.then(before);
    }
}

// What the first thread of a team has.
template <int TEAM, typename T> __device__ __forceinline__ T of_first(T x) {
    if constexpr (TEAM == 32) {
        return shuffled(x, 0, 32);
    } else {
        __shared__ T first;
        __syncthreads();  // the last use of it is over
        if (threadIdx.x == 0) first = x;
        __syncthreads();
        return first;
    }
}
"""

# `load(at, count, steps)` loads up to V steps of a line, `store(at, count, values)` takes as many values. `next(step,
# at, state)` is the state after a step, whatever its factor.
LINES = """\
struct Next {
    template <class S> __device__ __forceinline__
    typename S::State operator()(const S& step, Index, typename S::State state) const { return step.after(state); }
};

// A thread goes through steps [low, high) of a line; the state after them. The values are the states before or after.
template <int V, bool BEFORE, class S, class Load, class Store, class Next> __device__ __forceinline__
typename S::State walked(Load load, Store store, Next next, Index low, Index high, typename S::State state) {
    for (Index at = low; at < high; at += V) {
        const int count = (int)least<Index>(high - at, V);
        S steps[V];
        typename S::State values[V];
        load(at, count, steps);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            values[v] = state;
            if (v < count) state = next(steps[v], at + v, state);
            if (!BEFORE) values[v] = state;
        }
        store(at, count, values);
    }
    return state;
}

// A team does.
template <int TEAM, int V, bool BEFORE, class S, class Load, class Store, class Next> __device__ __forceinline__
void scanned(Load load, Store store, Next next, Index low, Index high, typename S::State state) {
    if constexpr (TEAM == 1) {
        walked<V, BEFORE, S>(load, store, next, low, high, state);
    } else {
        const int rank = threadIdx.x % TEAM;
        for (Index tile = low; tile < high; tile += TEAM * V) {
            const Index at = tile + rank * V, end = least<Index>(tile + TEAM * V, high);
            const int count = (int)most<Index>(least<Index>(high - at, V), 0);
            S steps[V], own = S::none(), all;
            load(at, count, steps);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                if (v < count) own = own.then(steps[v]);
            }
            const S before = steps_before<TEAM>(own, all);
            if (!all.is_regular()) {
                if (rank == 0) state = walked<V, BEFORE, S>(load, store, next, tile, end, state);
                state = of_first<TEAM>(state);
                continue;
            }
            typename S::State values[V], here = before.after(state);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                values[v] = here;
                here = steps[v].after(here);
                if (!BEFORE) values[v] = here;
            }
            store(at, count, values);
            state = all.after(state);
        }
    }
}

// A team joins steps [low, high).
template <int TEAM, int V, class S, class Load> __device__ __forceinline__ S reduced(Load load, Index low, Index high) {
    S total = S::none();
    for (Index tile = low; tile < high; tile += TEAM * V) {
        const Index at = tile + (TEAM > 1 ? threadIdx.x % TEAM : 0) * V;
        const int count = (int)most<Index>(least<Index>(high - at, V), 0);
        S steps[V], own = S::none(), all;
        load(at, count, steps);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            if (v < count) own = own.then(steps[v]);
        }
        if constexpr (TEAM > 1) steps_before<TEAM>(own, all); else all = own;
        total = total.then(all);
    }
    return total;
}

// V elements of a line from a place on, or from there back, of which the first `count` are there.
template <int V, bool BACK, typename T> __device__ __forceinline__
Pack<V, T> along(const T* at, Index stride, int count, bool aligned) {
    if (!aligned || count < V) return gathered<V>(at, BACK ? -stride : stride, count);
    const Pack<V, T> x = fetched<V>(BACK ? at - (V - 1) : at);
    Pack<V, T> y;
#pragma unroll
    for (int v = 0; v < V; ++v) y.item[v] = x.item[BACK ? V - 1 - v : v];
    return y;
}
template <int V, bool BACK, typename T> __device__ __forceinline__
void put_along(T* at, Index stride, int count, bool aligned, const Pack<V, T>& x) {
    if (!aligned || count < V) {
        scattered<V>(at, BACK ? -stride : stride, count, x);
        return;
    }
    Pack<V, T> y;
#pragma unroll
    for (int v = 0; v < V; ++v) y.item[v] = x.item[BACK ? V - 1 - v : v];
    put<V>(BACK ? at - (V - 1) : at, y);
}
"""


def _scan(code: CudaCode) -> bool:
    core = code.kernel.core
    assert core is not None
    work = _Work(code, core)
    for text in (STEPS, TEAMS, LINES):
        code.declare(text)
    code.note(work.described())
    if work.is_cut:
        totals, states = [code.workspace(work.teams * nbytes) for nbytes in (work.step_bytes, work.state_bytes)]
        work.reduce_parts(totals)
        work.scan_parts(totals, states)
        work.scan(states)
    else:
        work.scan(None)
    regions.finish(code, 0)
    return True


class _Work:
    """How the lines of a scan are divided: a team of threads does a part of one, or all of it.

    Attributes:
        arrays: the operands, or the number that all of one is.
        others: the axes of which each index has a line.
        team: threads that do a part together.
        each: neighbours that each of them loads at once.
        part: elements of a part.
        parts: of a line.
        teams: in all.
        type: in which states are computed.
    """

    def __init__(self, code: CudaCode, core: Node) -> None:
        self.code, self.core = code, core
        self.arrays = [operand_or_number(code, k) for k in range(len(core.inputs))]
        self.y = regions.result(code, 0)
        self.axis, self.size = core.attrs["axis"], core.shape[core.attrs["axis"]]
        self.others = [core.shape[k] for k in range(core.ndim) if k != self.axis]
        self.lines = product(self.others)
        self.type = TYPES.get(core.dtype, "u32")
        self.steps = f"{'Affine' if core.op is recurrence_op else 'Shift'}<{self.type}>"
        self.state_bytes = 8 if self.type in ("double", "u64") else 4
        self.step_bytes = self.state_bytes * (3 if core.op is recurrence_op else 1)
        self.team = self._team()
        self.each, self.part = EACH[self.team], PARTS[self.team]
        is_long = not isinstance(self.size, int) or self.size > self.part
        self.is_cut = is_long and guess(self.lines) * self.team < FULL
        self.parts = ceil_div(self.size, self.part) if self.is_cut else 1
        self.teams = self.lines * self.parts

    def _team(self) -> int:
        if self.axis < self.core.ndim - 1 and self.core.shape[-1] != 1:
            return 1
        if not isinstance(self.size, int):
            return THREADS
        return 1 if self.size <= SHORT else 32 if self.size <= BY_WARPS else THREADS

    def described(self) -> str:
        """In a few words."""
        team = {1: "thread", 32: "warp", THREADS: "block"}[self.team]
        return f"lines by {team}s" + (f", in parts of {self.part}" if self.is_cut else "")

    # ------------------------------------------------------------------------------------ launches

    def reduce_parts(self, totals: Dim) -> None:
        """The steps of each part, joined."""
        with self._each_team() as (frame, index, low, high):
            load = self._load(frame, index)
            joined = f"reduced<{self.team}, {self.each}, {self.steps}>({load}, {low}, {high})"
            total = frame.value(self.steps, joined, "total")
            steps = self._parts_in(frame, totals, self.steps)
            frame.line(f"if (threadIdx.x % {self.team} == 0) {steps}[team] = {total};")

    def scan_parts(self, totals: Dim, states: Dim) -> None:
        """The state before each part; a warp does a line, and goes through parts with irregular factors."""
        with each(self.code, self.lines * WARP) as (frame, thread):
            line = frame.value("Index", f"{thread} / {WARP}", "line")
            elements = self._load(frame, unravelled(frame, line, self.others))
            parts, size = frame.size(self.parts), frame.size(self.size)
            before, steps = [self._parts_in(frame, *of) for of in ((states, self.type), (totals, self.steps))]
            place = f"(at + v) * {frame.size(self.lines)} + {line}" if self.team == 1 else f"{line} * {parts} + at + v"
            loaded_parts = f"steps[v] = v < count ? {steps}[{place}] : {self.steps}::none()"
            load = self._lambda(frame, "load", "Index at, int count, {steps}", [loaded_parts])
            stored_states = f"if (v < count) {before}[{place}] = values[v]"
            store = self._lambda(frame, "store", "Index at, int count, const {values}", [stored_states])
            with frame.block(f"auto next = [&](const {self.steps}& step, Index part, {self.type} state)", "};"):
                frame.line("if (step.is_regular()) return step.after(state);")
                frame.line(f"const Index low = part * {self.part}, high = least<Index>(low + {self.part}, {size});")
                frame.line(f"auto nothing = [](Index, int, const {self.type}(&)[{self.each}]) {{}};")
                walked = f"walked<{self.each}, true, {self.steps}>({elements}, nothing, Next(), low, high, state)"
                frame.line(f"return {walked};")
            function = f"scanned<{WARP}, {self.each}, true, {self.steps}>"
            frame.line(f"{function}({load}, {store}, next, 0, {parts}, {self._start});")

    def scan(self, states: Dim | None) -> None:
        """The values of each part, from the states before them."""
        with self._each_team() as (frame, index, low, high):
            load, store = self._load(frame, index), self._store(frame, index)
            state = self._start if states is None else f"{self._parts_in(frame, states, self.type)}[team]"
            before = self.core.op is recurrence_op or self.core.attrs["exclusive"]
            function = f"scanned<{self.team}, {self.each}, {'true' if before else 'false'}, {self.steps}>"
            frame.line(f"{function}({load}, {store}, Next(), {low}, {high}, {state});")

    @contextmanager
    def _each_team(self) -> Iterator[tuple[Frame, list[str], str, str]]:
        """A launch with a team for each part: its line, as an index over the other axes, and its first and last step.

        Side by side are lines, where a thread is a team, else parts of a line.
        """
        part = self.part
        self.code.span(self.parts * part + self.team * self.each)
        with each(self.code, self.teams * self.team) as (frame, thread):
            frame.line(f"const Index team = {f'{thread} / {self.team}' if self.team > 1 else thread};")
            if not self.is_cut:
                yield frame, unravelled(frame, "team", self.others), "0", frame.size(self.size)
                return
            divisor = frame.size(self.lines if self.team == 1 else self.parts)
            over, rest = frame.value("Index", f"team / {divisor}"), frame.value("Index", f"team % {divisor}")
            line, number = (rest, over) if self.team == 1 else (over, rest)
            low = frame.value("Index", f"{number} * {part}", "low")
            high = frame.value("Index", f"least<Index>({low} + {part}, {frame.size(self.size)})", "high")
            yield frame, unravelled(frame, line, self.others), low, high

    # ------------------------------------------------------------------------------------ accesses

    @property
    def _start(self) -> str:
        value = number(self.core.attrs.get("initial", 0), self.core.dtype)
        return f"({self.type}){value}"

    def _parts_in(self, frame: Frame, offset: Dim, type: str) -> str:
        """A pointer to workspace that has one of a type for each team."""
        words = frame.pointer("workspace", offset, "int64" if self.state_bytes == 8 else "int32")
        name = frame.name("parts")
        frame.line(f"{type}* const {name} = reinterpret_cast<{type}*>({words});")
        return name

    def _place(self, frame: Frame, array: Strided, index: Sequence[str]) -> tuple[str, str, str]:
        """Of the elements of a line from step `at` on: the address, the stride, and whether packs are aligned."""
        along = [*index[: self.axis], "at", *index[self.axis :]]
        extent, stride = frame.size(self.size), array.strides[self.axis]
        if self.core.attrs["reverse"]:
            along[self.axis] = f"{extent} - 1 - at"
        rest = [s for k, s in enumerate(array.strides) if k != self.axis and self.core.shape[k] != 1]
        whole = [array.offset, *rest, *([self.size] if self.core.attrs["reverse"] else [])]
        aligned = stride == 1 and all(is_multiple(dim, self.each) for dim in whole)
        return f"&{frame.at(array, along)}", frame.size(stride), "true" if aligned else "false"

    def _load(self, frame: Frame, index: Sequence[str]) -> str:
        """A function that loads steps of a line; its name."""
        back = "true" if self.core.attrs["reverse"] else "false"
        lines, parts = [], []
        for k, array in enumerate(self.arrays):
            if not isinstance(array, Strided):
                parts.append(f"({self.type}){number(array, self.core.dtype)}")
                continue
            at, stride, aligned = self._place(frame, array, index)
            lines.append(f"const auto x{k} = along<{self.each}, {back}>({at}, {stride}, count, {aligned})")
            parts.append(f"({self.type}){loaded(array.dtype, f'x{k}.item[v]')}")
        step = f"{self.steps}{{{', '.join(parts)}{', 0' if len(parts) == 2 else ''}}}"
        return self._lambda(frame, "load", "Index at, int count, {steps}", [f"steps[v] = {step}"], before=lines)

    def _store(self, frame: Frame, index: Sequence[str]) -> str:
        """A function that stores values of a line; its name."""
        at, stride, aligned = self._place(frame, self.y, index)
        back, memory = "true" if self.core.attrs["reverse"] else "false", MEMORY[self.y.dtype]
        value = "values[v] != 0" if self.y.dtype == "bool" else stored(self.y.dtype, "values[v]")
        before, after = f"Pack<{self.each}, {memory}> some", f"({at}, {stride}, count, {aligned}, some)"
        return self._lambda(
            frame,
            "store",
            "Index at, int count, const {values}",
            [f"some.item[v] = ({memory})({value})"],
            before=[before],
            after=[f"put_along<{self.each}, {back}>{after}"],
        )

    def _lambda(
        self,
        frame: Frame,
        stem: str,
        parameters: str,
        each: Sequence[str],
        before: Sequence[str] = (),
        after: Sequence[str] = (),
    ) -> str:
        """A function of statements, `each` of which is for every `v`; its name.

        Args:
            parameters: in which "{steps}" is an array of steps, and "{values}" one of values.
        """
        name = frame.name(stem)
        arrays = dict(steps=f"{self.steps}(&steps)[{self.each}]", values=f"{self.type}(&values)[{self.each}]")
        with frame.block(f"auto {name} = [&]({parameters.format(**arrays)})", "};"):
            for statement in before:
                frame.line(f"{statement};")
            frame.line("#pragma unroll")
            with frame.block(f"for (int v = 0; v < {self.each}; ++v)"):
                for statement in each:
                    frame.line(f"{statement};")
            for statement in after:
                frame.line(f"{statement};")
        return name


CORES: Mapping[Op, Callable[[CudaCode], bool]] = {cumsum_op: _scan, recurrence_op: _scan}
