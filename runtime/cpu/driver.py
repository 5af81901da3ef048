"""The loop that runs a plan: its phases in order, the costly ones divided among the threads of a pool.

A plan is a list of commands in memory that nobody changes. Cheap commands run on the thread that runs the plan, at the
price of an indirect call. A costly one is cut into *tickets*, ranges of its units, which that thread and the workers of
a pool take until none is left; the next command begins when all have been done. Each worker begins at a part of its own
of every command, so that what it wrote in one is in its cache where the next reads it, and goes on with the parts of
others. Who takes part doesn't matter: a worker that sleeps or was descheduled holds nobody up unless it has a ticket in
hand. How a command is cut depends on its units and cost alone, and phases compute the same whatever the cut, so any
number of threads gives the same bits.

Whoever waits, spins for a bounded time and then sleeps on an address (a futex).
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np

from graphc.op import Array
from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.fields import I32, Fields, both, call, do, is_zero, unless
from graphc.runtime.cpu.host import Host, this_host
from graphc.runtime.cpu.jit import Code, compiled
from graphc.runtime.cpu.parts import Part
from graphc.runtime.cpu.values import I64, PTR, Int, Value, constant
from graphc.runtime.cpu.waiting import futexes, has_futexes, pausing
from graphc.runtime.pages import aligned_memory

# `python -m benchmarks threads` measures what these rest on.
PARALLEL_NS = 8_000  # commands that cost less run on one thread
TICKET_NS = 4_000  # a ticket costs about this much, at least
PARTS = 8  # of a command's tickets, each counted by a byte of a word
MAX_TICKETS = 256  # of a command
SHORT_NS = 50_000  # a plan that costs less keeps the interpreter's lock
WAKE_NS = 100_000  # a plan whose parallel commands cost less is over before a thread that sleeps could help much
PATIENCE = 8  # commands of such plans that find threads asleep before one wakes them: there may be many more

# A plan: its number of commands, whether a pool can help and is worth waking, its state or null, whether it changes
# variables, and the commands. Byte offsets.
COUNT, PARALLEL, WORTH, STATE, CHANGES, COMMANDS = 0, 8, 16, 24, 32, 64
ADDRESS, ARGS, UNITS, GRAIN, TICKETS, COUNTS = range(0, 48, 8)  # of a command; one of no tickets isn't divided
COMMAND_BYTES = 48

# The state of a plan: address of the epoch, which changes with the variables; the epoch for which it is prepared; the
# plan that prepares it.
EPOCH, SEEN, PREPARES = 0, 8, 16
NEVER = -1  # no epoch

# Memory of the workers: the bytes of each, and then, aligned, those of worker 0, 1, ...
STRIDE, FIRST = 0, 64
PAGE = 4096
GUARD = 64 << 10  # bytes before and after those of each: what is asked for ahead of its use may lie beyond its array

# The state of a pool; what different threads write at the same time lies in different pairs of cache lines.
REMAINING, CLOSING = 0, 8  # tickets of each part of the command at hand that nobody took; whether workers shall end
PENDING, WAITING = 128, 132  # its tickets that aren't done; whether someone sleeps until they are
SIGNAL, SLEEPERS = 256, 260  # changes to wake workers; how many sleep
BUSY = 384  # whether a run owns the pool
COMMAND, TABLE, SCRATCH, FAILED = 512, 520, 528, 536  # of the run that owns it
URGENT, MISSED = 544, 552  # whether it is worth waking threads for it; commands that went without them
SPIN, WAIT, WAKE = 640, 648, 656  # pauses before sleeping; functions that sleep on an address, and wake from it
THREADS = 664  # how many take part, at most
POOL_BYTES = 768

EVERYONE = 2**31 - 1  # to wake


# ------------------------------------------------------------------------------------------- what the loop is made of


def assembly(host: Host) -> str:
    """The driver as LLVM assembly.

    It has `i64 run(ptr plan, ptr table, ptr scratch, ptr pool)`, which returns 0 or 1 + the number of the command that
    failed, `void worker(ptr pool, i64 number)`, the life of a worker, `void end(ptr pool)`, which ends the workers,
    `void pauses(i64 count)`, for measuring how long spinning takes, `void touch(ptr memory, i64 bytes)`, which writes
    to memory without changing it, and where the system has it `futex_wait` and `futex_wake`.
    """
    module = Module()
    pause = pausing(module, host)
    if has_futexes(host):
        futexes(module, host)
    _pauses(module, pause)
    _touch(module)
    _work(module)
    _worker(module, pause)
    _end(module)
    _share(module, pause)
    for name, shared in (("run_alone", False), ("run_shared", True)):
        _walk(module, name, shared)
    _once(module)
    _run(module)
    return module.text()


WORK, SHARE, RUN_ALONE, RUN_SHARED, ONCE = (
    Value(f"@{name}", PTR) for name in ("work", "share", "run_alone", "run_shared", "once")
)


def _pauses(module: Module, pause: Callable[[Function], None]) -> None:
    """`void pauses(i64 count)`."""
    f = module.function("pauses", [(I64, "count")])
    f.loop(0, f.parameter(0), 1, lambda i, _: pause(f))
    f.ret()


def _touch(module: Module) -> None:
    """`void touch(ptr memory, i64 bytes)`: write to each page, so that the system makes it, and change nothing."""
    f = module.function("touch", [(PTR, "memory"), (I64, "bytes")])

    def touch(at: Int, _: list[Value]) -> None:
        # Not an `or` of 0, which LLVM makes a load of: that gives a page that all share.
        page = f.address(f.parameter(0), at, "i8")
        f.emit("{ i8, i1 }", f"cmpxchg ptr {page.text}, i8 0, i8 0 monotonic monotonic")

    f.loop(0, f.parameter(1), PAGE, touch)
    f.ret()


def _spin(f: Function, pool: Fields, pause: Callable[[Function], None], done: Callable[[], Value]) -> None:
    """Pause until something is so, or it has taken too long."""
    limit = pool.load(I64, SPIN)

    def body(values: list[Value]) -> list[Value]:
        pause(f)
        return [f.i64(f.add(values[0], 1)), done()]

    def goes_on(values: list[Value]) -> Value:
        return both(f, f.is_less(values[0], limit), f.binary("xor", values[1], constant("i1", True)))

    f.loop_while(goes_on, body, [constant(I64, 0), done()])


def _work(module: Module) -> None:
    """`void work(ptr pool, i64 worker)`: take tickets of the command at hand until none is left."""
    f = module.function("work", [("ptr", "pool"), (I64, "worker")], internal=True)
    pool = Fields(f, f.parameter(0))

    def ticket(part: Value, left: Value) -> list[Value]:
        """Do one, which so many of its part follow: that it is in hand keeps all that the run has put into the pool."""
        command = pool.load(PTR, COMMAND)
        address, args = (f.load(PTR, f.address(command, offset, "i8"), 8) for offset in (ADDRESS, ARGS))
        units, grain, tickets = (f.load(I64, f.address(command, at, "i8"), 8) for at in (UNITS, GRAIN, TICKETS))
        low = f.mul(f.sub(_first_ticket(f, tickets, f.add(part, 1)), f.add(left, 1)), grain)
        high = f.min(f.add(low, grain), units)
        scratch = pool.load(PTR, SCRATCH)
        stride = f.load(I64, f.address(scratch, STRIDE, "i8"), 8)
        own = f.address(f.address(scratch, FIRST, "i8"), f.mul(f.parameter(1), stride), "i8")
        failed = call(f, address, pool.load(PTR, TABLE), args, f.i64(low), f.i64(high), own)
        unless(f, is_zero(f, failed), lambda: pool.put(constant(I64, 1), FAILED, "monotonic"))
        return [pool.atomic(I64, REMAINING)]

    own = f.div(f.mul(f.parameter(1), PARTS), pool.load(I64, THREADS))

    def take(values: list[Value]) -> list[Value]:
        """One of the first part from our own on, and around, that has any left: the first byte that isn't 0."""
        left, taken = values
        turned = f.intrinsic("fshr", left, left, f.i64(f.mul(own, 8)))
        ahead = f.intrinsic("cttz", turned, constant("i1", True))
        part = f.binary("and", f.i64(f.add(own, f.div(ahead, 8))), constant(I64, PARTS - 1))
        bits = f.i64(f.mul(part, 8))
        after = f.i64(f.sub(left, f.binary("shl", constant(I64, 1), bits)))
        found, mine = pool.exchange(left, after, REMAINING)
        follow = f.binary("and", f.binary("lshr", after, bits), constant(I64, 255))
        (left,) = f.if_(mine, lambda: ticket(part, follow), lambda: [found])
        return [left, f.i64(f.add(taken, f.convert("zext", mine, I64)))]

    first = pool.atomic(I64, REMAINING)
    _, taken = f.loop_while(
        lambda values: f.compare("icmp ne", values[0], constant(I64, 0)), take, [first, constant(I64, 0)]
    )

    def hand_in() -> None:
        done = f.convert("trunc", taken, I32)
        last = f.compare("icmp eq", pool.update("sub", done, PENDING), done)
        f.if_(last, lambda: unless(f, is_zero(f, pool.atomic(I32, WAITING)), wake_owner))

    def wake_owner() -> None:
        do(f, pool.load(PTR, WAKE), pool.at(PENDING), constant(I32, 1))

    unless(f, is_zero(f, taken), hand_in)
    f.ret()


def _first_ticket(f: Function, tickets: Int, part: Int) -> Int:
    """The number of the first ticket of a part; `_counts` follows from it."""
    return f.div(f.add(f.mul(tickets, part), PARTS - 1), PARTS)


@cache
def _counts(tickets: int) -> int:
    """How many tickets each part has, a byte for each."""
    first = [-(-tickets * part // PARTS) for part in range(PARTS + 1)]
    return int.from_bytes([high - low for low, high in itertools.pairwise(first)], "little", signed=False)


def _worker(module: Module, pause: Callable[[Function], None]) -> None:
    """`void worker(ptr pool, i64 number)`: work, spin, sleep, until the pool is closed."""
    f = module.function("worker", [(PTR, "pool"), (I64, "number")])
    pool = Fields(f, f.parameter(0))

    def idle() -> Value:
        return both(f, is_zero(f, pool.atomic(I64, REMAINING)), is_zero(f, pool.atomic(I64, CLOSING)))

    def sleep() -> None:
        """Whoever has a command for us looks, after having said so, for sleepers; we say that we sleep, then look."""
        signal = pool.atomic(I32, SIGNAL)
        pool.update("add", constant(I32, 1), SLEEPERS)
        f.if_(idle(), lambda: do(f, pool.load(PTR, WAIT), pool.at(SIGNAL), signal))
        pool.update("sub", constant(I32, 1), SLEEPERS)

    def live(_: list[Value]) -> list[Value]:
        do(f, WORK, f.parameter(0), f.parameter(1))
        _spin(f, pool, pause, lambda: f.binary("xor", idle(), constant("i1", True)))
        f.if_(idle(), sleep)
        return [pool.atomic(I64, CLOSING)]

    f.loop_while(lambda values: is_zero(f, values[0]), live, [constant(I64, 0)])
    f.ret()


def _end(module: Module) -> None:
    """`void end(ptr pool)`: let the workers leave their loop."""
    f = module.function("end", [(PTR, "pool")])
    pool = Fields(f, f.parameter(0))
    pool.put(constant(I64, 1), CLOSING)
    pool.update("add", constant(I32, 1), SIGNAL)
    do(f, pool.load(PTR, WAKE), pool.at(SIGNAL), constant(I32, EVERYONE))
    f.ret()


def _share(module: Module, pause: Callable[[Function], None]) -> None:
    """`i64 share(ptr pool, ptr command, i64 tickets)`: run a command with all workers; whether it failed."""
    f = module.function("share", [(PTR, "pool"), (PTR, "command"), (I64, "tickets")], I64, internal=True)
    pool, tickets = Fields(f, f.parameter(0)), f.parameter(2)

    def wake() -> None:
        pool.store(constant(I64, 0), MISSED)
        pool.update("add", constant(I32, 1), SIGNAL)
        helpers = f.convert("trunc", f.i64(f.sub(tickets, 1)), I32)
        do(f, pool.load(PTR, WAKE), pool.at(SIGNAL), helpers)

    def wake_if_it_pays() -> None:
        missed = f.i64(f.add(pool.load(I64, MISSED), 1))
        pool.store(missed, MISSED)
        waited = f.compare("icmp sge", missed, constant(I64, PATIENCE))
        f.if_(f.binary("or", waited, f.compare("icmp ne", pool.load(I64, URGENT), constant(I64, 0))), wake)

    def wait(left: list[Value]) -> list[Value]:
        do(f, pool.load(PTR, WAIT), pool.at(PENDING), left[0])
        return [pool.atomic(I32, PENDING)]

    def sleep() -> None:
        pool.put(constant(I32, 1), WAITING)
        f.loop_while(lambda left: f.compare("icmp ne", left[0], constant(I32, 0)), wait, [pool.atomic(I32, PENDING)])
        pool.put(constant(I32, 0), WAITING)

    pool.store(f.parameter(1), COMMAND)
    pool.put(f.convert("trunc", tickets, I32), PENDING, "monotonic")
    counts = f.load(I64, f.address(f.parameter(1), COUNTS, "i8"), 8)
    pool.update("xchg", counts, REMAINING)
    unless(f, is_zero(f, pool.atomic(I32, SLEEPERS)), wake_if_it_pays)
    do(f, WORK, f.parameter(0), constant(I64, 0))
    _spin(f, pool, pause, lambda: is_zero(f, pool.atomic(I32, PENDING)))
    unless(f, is_zero(f, pool.atomic(I32, PENDING)), sleep)
    f.ret(pool.atomic(I64, FAILED, "monotonic"))


RUN = ((PTR, "plan"), (PTR, "table"), (PTR, "scratch"), (PTR, "pool"))


def _walk(module: Module, name: str, shared: bool) -> None:
    """The commands one after the other, with the pool's help or without; 1 + the number of the first that failed."""
    f = module.function(name, RUN, I64, internal=True)
    plan, table, scratch, pool = (f.parameter(k) for k in range(4))
    own = f.address(scratch, FIRST, "i8")
    count = f.load(I64, f.address(plan, COUNT, "i8"), 8)
    commands = f.address(plan, COMMANDS, "i8")

    def alone(at: Value, units: Value) -> list[Value]:
        address, args = f.load(PTR, at, 8), f.load(PTR, f.address(at, ARGS, "i8"), 8)
        return [call(f, address, table, args, constant(I64, 0), units, own)]

    def step(values: list[Value]) -> list[Value]:
        at = f.address(commands, f.mul(values[0], COMMAND_BYTES), "i8")
        units = f.load(I64, f.address(at, UNITS, "i8"), 8)
        if shared:
            tickets = f.load(I64, f.address(at, TICKETS, "i8"), 8)
            (failed,) = f.if_(
                is_zero(f, tickets),
                lambda: alone(at, units),
                lambda: [call(f, SHARE, pool, at, tickets)],
            )
        else:
            (failed,) = alone(at, units)
        return [f.i64(f.add(values[0], 1)), failed]

    def goes_on(values: list[Value]) -> Value:
        return both(f, f.is_less(values[0], count), is_zero(f, values[1]))

    done, failed = f.loop_while(goes_on, step, [constant(I64, 0), constant(I64, 0)])
    f.ret(f.select(is_zero(f, failed), constant(I64, 0), done))


def _once(module: Module) -> None:
    """Take the pool if the plan needs one and it is free; else do all of it here: no thread waits for another run."""
    f = module.function("once", RUN, I64, internal=True)
    parameters = plan, table, scratch, base = tuple(f.parameter(k) for k in range(4))
    pool = Fields(f, base)

    def alone() -> list[Value]:
        return [call(f, RUN_ALONE, *parameters)]

    def shared() -> list[Value]:
        pool.store(table, TABLE)
        pool.store(scratch, SCRATCH)
        pool.store(f.load(I64, f.address(plan, WORTH, "i8"), 8), URGENT)
        pool.put(constant(I64, 0), FAILED, "monotonic")
        failed = call(f, RUN_SHARED, *parameters)
        pool.put(constant(I64, 0), BUSY)
        return [failed]

    def if_free() -> list[Value]:
        _, mine = pool.exchange(constant(I64, 0), constant(I64, 1), BUSY)
        return f.if_(mine, shared, alone)

    parallel = f.load(I64, f.address(plan, PARALLEL, "i8"), 8)
    given = f.compare("icmp ne", base, Value("null", PTR))
    helped = both(f, given, f.compare("icmp ne", parallel, constant(I64, 0)))
    (failed,) = f.if_(helped, if_free, alone)
    f.ret(failed)


def _run(module: Module) -> None:
    """Run the plan, and before it, if variables have changed since it was prepared, the plan that prepares it."""
    f = module.function("run", RUN, I64)
    plan, *others = (f.parameter(k) for k in range(4))
    header = Fields(f, plan)
    state = Fields(f, f.in_entry(lambda: header.load(PTR, STATE)))
    zero = constant(I64, 0)

    def now() -> Value:
        return f.load(I64, state.load(PTR, EPOCH), 8)

    def prepared() -> list[Value]:
        failed = call(f, ONCE, state.load(PTR, PREPARES), *others)
        f.if_(is_zero(f, failed), lambda: state.store(now(), SEEN))
        return [failed]

    def changed() -> None:
        """What the plan itself changes, it doesn't prepare."""
        epoch = f.i64(f.add(now(), header.load(I64, CHANGES)))
        f.store(epoch, state.load(PTR, EPOCH), 8)
        state.store(epoch, SEEN)

    def stateful() -> list[Value]:
        current = f.compare("icmp eq", now(), state.load(I64, SEEN))
        (failed,) = f.if_(current, lambda: [zero], prepared)
        (failed,) = f.if_(is_zero(f, failed), lambda: [call(f, ONCE, plan, *others)], lambda: [failed])
        f.if_(is_zero(f, failed), changed)
        return [failed]

    plain = f.compare("icmp eq", state.base, Value("null", PTR))
    (failed,) = f.if_(plain, lambda: [call(f, ONCE, plan, *others)], stateful)
    f.ret(failed)


# ------------------------------------------------------------------------------------------- running plans


class Driver(NamedTuple):
    """The driver in memory.

    Attributes:
        code: what keeps it there.
        run: the loop, called without the interpreter's lock.
        run_locked: the loop, called with it: for what is over before another thread could use it.
        worker, end, pauses, touch: see `assembly`.
        wait, wake: addresses of the functions that sleep on an address and wake from it, or None.
    """

    code: Code
    run: Callable[[int, int, int, int], int]
    run_locked: Callable[[int, int, int, int], int]
    worker: Callable[[int, int], None]
    end: Callable[[int], None]
    pauses: Callable[[int], None]
    touch: Callable[[int, int], None]
    wait: int | None
    wake: int | None


@cache
def module() -> Part:
    """The driver for this host."""
    host = this_host()
    futex = ("futex_wait", "futex_wake") if has_futexes(host) else ()
    return Part("driver", ("run", "worker", "end", "pauses", "touch", *futex), lambda: assembly(host))


@cache
def require_code() -> None:
    """See that this process can run generated code: load the driver, or where it must be compiled first, less.

    Raises:
        GraphcError, OSError, RuntimeError: it can't; what follows can't be run either. InternalError: LLVM refuses it.
    """
    if module().is_at_hand:
        driver()
    else:
        Code([compiled("define void @f() {\nret void\n}\n", this_host())], ["f"])


@cache
def driver() -> Driver:
    """The driver of this process."""
    code = module().code
    futex = has_futexes(this_host())
    pointers, number = [ctypes.c_void_p] * 4, ctypes.c_int64
    return Driver(
        code,
        ctypes.CFUNCTYPE(number, *pointers)(code.address("run")),
        ctypes.PYFUNCTYPE(number, *pointers)(code.address("run")),
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, number)(code.address("worker")),
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address("end")),
        ctypes.CFUNCTYPE(None, number)(code.address("pauses")),
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, number)(code.address("touch")),
        code.address("futex_wait") if futex else None,
        code.address("futex_wake") if futex else None,
    )


class Command(NamedTuple):
    """A call of a phase.

    Attributes:
        address: of the function; see `phases` for what it takes.
        args: 64-bit words.
        units: of work, which may be divided.
        cost_ns: what all of them take one core, roughly, in nanoseconds.
        name: for messages.
    """

    address: int
    args: Sequence[int]
    units: int
    cost_ns: int
    name: str


def tickets_of(units: int, cost_ns: int) -> tuple[int, int]:
    """Units of a ticket, and the number of tickets; no tickets where dividing doesn't pay."""
    wanted = min(units, cost_ns // TICKET_NS, MAX_TICKETS)
    if cost_ns < PARALLEL_NS or wanted < 2:
        return units, 0
    grain = -(-units // wanted)
    return grain, -(-units // grain)


class State:
    """What a plan keeps from run to run was made of variables: when, and how it is made again.

    Args:
        epoch: a word that is another one whenever variables have changed.
        prepares: the commands that make it.
    """

    def __init__(self, epoch: Array, prepares: CommandList) -> None:
        self._kept = epoch, prepares
        self._words = np.array([epoch.ctypes.data, NEVER, prepares.address], np.int64)
        self.address: int = self._words.ctypes.data

    def forget(self) -> None:
        """Let the next run prepare."""
        self._words[SEEN // 8] = NEVER


class CommandList:
    """Commands in memory, as the driver walks them; immutable, so that many runs may use them.

    Args:
        state: of the plan that they are a part of; None if it keeps nothing and changes no variables.
        changes: whether they change variables.

    Attributes:
        address: of the plan.
        names: of the commands.
        short: whether all of it is over so soon that the interpreter's lock is kept.
        parallel: whether a pool helps.
    """

    def __init__(self, commands: Sequence[Command], state: State | None = None, *, changes: bool = False) -> None:
        self.state = state
        self.names = tuple([command.name for command in commands])
        self.short = sum([command.cost_ns for command in commands]) < SHORT_NS
        cuts = [tickets_of(c.units, c.cost_ns) for c in commands]
        self.parallel = any(tickets for _, tickets in cuts)
        args = [word for command in commands for word in command.args]
        starts = np.cumsum([0, *[len(command.args) for command in commands]])
        head = COMMANDS + COMMAND_BYTES * len(commands)
        self._memory = aligned_memory(head + 8 * len(args))
        self.address: int = self._memory.ctypes.data
        words = self._memory.view(np.int64)
        divided = sum([command.cost_ns for command, (_, tickets) in zip(commands, cuts, strict=True) if tickets])
        words[COUNT // 8], words[PARALLEL // 8], words[WORTH // 8] = len(commands), divided > 0, divided >= WAKE_NS
        words[STATE // 8], words[CHANGES // 8] = 0 if state is None else state.address, changes
        words[head // 8 :] = args
        rows = words[COMMANDS // 8 : head // 8].reshape(-1, COMMAND_BYTES // 8)
        rows[:, ADDRESS // 8] = np.array([command.address for command in commands], np.uint64).view(np.int64)
        rows[:, ARGS // 8] = self.address + head + 8 * starts[:-1]
        rows[:, UNITS // 8] = [command.units for command in commands]
        rows[:, GRAIN // 8 : TICKETS // 8 + 1] = np.array(cuts, np.int64).reshape(-1, 2)
        rows[:, COUNTS // 8] = [_counts(tickets) for _, tickets in cuts]
        self._memory.flags.writeable = False

    def __len__(self) -> int:
        return len(self.names)


class Scratch:
    """Memory of each thread that takes part in a run; one run at a time uses it.

    Args:
        workers: how many, the thread that runs the plan included.
    """

    def __init__(self, workers: int, nbytes: int = 0) -> None:
        self.workers = workers
        self.nbytes = -1
        self.reserve(nbytes)

    def reserve(self, nbytes: int) -> None:
        """Make sure that every worker has at least this many bytes; what was there is lost."""
        if nbytes <= self.nbytes:
            return
        stride = -(-nbytes // PAGE) * PAGE + GUARD  # a page belongs to one worker, whose use of it places it
        self.memory = aligned_memory(GUARD + FIRST + stride * self.workers)[GUARD:]
        self.memory[STRIDE : STRIDE + 8].view(np.int64)[0] = stride
        self.nbytes = nbytes
        self.address: int = self.memory.ctypes.data


class Crew(Protocol):
    """Threads that wait for work, and the address of the state that they share; it must live while a run uses it."""

    address: int


class Threads(Protocol):
    """What a run needs of a pool: workers whose numbers are below `threads`.

    Attributes:
        place: a word: the address of the state that they share, 0 while there are none.
    """

    threads: int
    place: Array

    def ready(self) -> Crew:
        """Start the workers unless they run."""
        ...


def run(commands: CommandList, table: int, scratch: Scratch, pool: Threads | None = None) -> int:
    """Run a plan.

    Args:
        table: the address of the table of addresses that the commands mean.
        scratch: for as many workers as the pool has threads.
        pool: threads that help, if no other run has them just now.

    Returns:
        0, or 1 + the number of the command that failed; none after it has run.
    """
    code = driver()
    walk = code.run_locked if commands.short else code.run
    if pool is None or not is_helped(commands, pool):
        return walk(commands.address, table, scratch.address, 0)
    assert scratch.workers >= pool.threads, "every worker needs scratch memory of its own"
    crew = pool.ready()
    return walk(commands.address, table, scratch.address, crew.address)


def is_helped(commands: CommandList, pool: Threads) -> bool:
    """Whether a pool has threads that can help with a plan."""
    return commands.parallel and pool.threads > 1
