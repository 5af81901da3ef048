"""Static against eager: one training loop in graphc, in its eager twin and in PyTorch; and where eager is better.

    python examples/static_vs_eager.py [--steps 200] [--rounds 15] [--out .]

A small network learns to tell three spirals apart. Every system begins with the same weights and prints the same
losses. A ledger shows where the time goes, as a table and in `static_vs_eager.png` (where matplotlib is installed).
Then come three things that eager execution does better: `while` on a value, what is computed once, and a debugger.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import numpy as np

import graphc as gc
from graphc import eager as ge

RATE, MOMENTUM = 0.2, 0.9
Step = Callable[[np.ndarray, np.ndarray], Any]  # of training: points and classes to the loss before it


# --------------------------------------------------------------------------------------------- one loop, three systems


def spirals(count: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Points on three spirals, float32[count, 2], and on which each is, int64[count]."""
    classes = np.arange(count) % 3
    radius = np.linspace(0.1, 1, count)
    angle = 4 * radius + 2 * np.pi / 3 * classes
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return points.astype("float32"), classes.astype("int64")


def network(nn: Any) -> Any:
    """The model, of `gc.nn` or `torch.nn`."""
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 3))


def declare() -> tuple[list[Any], list[gc.Placeholder]]:
    """The static form: what is fetched in a step, and what is fed. Nothing is computed here."""
    with gc.Graph():
        points = gc.placeholder("points", shape=("batch", 2))
        classes = gc.placeholder("classes", shape=("batch",), dtype="int64")
        loss = gc.losses.cross_entropy(network(gc.nn)(points), classes)
        train = gc.optim.SGD(lr=RATE, momentum=MOMENTUM).minimize(loss)
    return [loss, train], [points, classes]


def static() -> Step:
    """The step as one compiled program."""
    fetches, feeds = declare()
    step = gc.Session(seed=0).compile(fetches, feeds)
    return lambda points, classes: step(points, classes)[0]


def twin() -> Any:
    """The model with values of its own: those that `gc.Session(seed=0)` makes."""
    with gc.Graph():
        return ge.module(network(gc.nn), seed=0)


def eager() -> Step:
    """The same ops and kernels, one call at a time."""
    model = twin()
    optimizer = ge.optimizer(gc.optim.SGD(lr=RATE, momentum=MOMENTUM), model)

    def step(points: np.ndarray, classes: np.ndarray) -> Any:
        optimizer.zero_grad()
        loss = gc.losses.cross_entropy(model(ge.tensor(points)), ge.tensor(classes))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def pytorch() -> Step:
    """The same in PyTorch, from the same weights.

    Raises:
        ImportError: it isn't installed.
    """
    import torch

    torch.set_num_threads(1)  # which is fastest for layers this small
    model = network(torch.nn)
    model.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in twin().state_dict().items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def step(points: np.ndarray, classes: np.ndarray) -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(points)), torch.from_numpy(classes))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def systems() -> dict[str, Step]:
    """Those that are installed, each at the beginning of its training."""
    found = {"static": static(), "eager": eager()}
    try:
        return {**found, "PyTorch": pytorch()}
    except ImportError:
        return found


def train(steps: int) -> dict[str, list[float]]:
    """The loss of every step in every system."""
    data = spirals()
    return {name: [float(step(*data)) for _ in range(steps)] for name, step in systems().items()}


def furthest(losses: dict[str, list[float]]) -> float:
    """By how much the losses of a step differ between systems, at most."""
    table = np.array(list(losses.values()))
    return float(np.max(table.max(0) - table.min(0)))


def microseconds(rounds: int, steps: int = 3) -> dict[str, float]:
    """A step in each system, turn by turn: the median of their turns."""
    data, running = spirals(), systems()
    turns: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, step in running.items():
            step(*data)
            started = time.perf_counter()
            for _ in range(steps):
                step(*data)
            turns[name].append(1e6 * (time.perf_counter() - started) / steps)
    return {name: median(found) for name, found in turns.items()}


def ledger(rounds: int) -> gc.Ledger:
    """Where the time of the eager step goes when it is compiled."""
    fetches, feeds = declare()
    step = eager()
    values = dict(zip(feeds, spirals(), strict=True))
    return gc.ledger(fetches, values, eager=lambda *fed: [step(*fed), None], rounds=rounds)


# --------------------------------------------------------------------------------------------- where eager is better

CLOSE, ENOUGH = 1e-6, 20


def root(a: Any) -> tuple[Any, int]:
    """The square root of an eager tensor by Newton's method, and how many steps that took: `while` reads a value."""
    x, count = a, 0
    while abs(x * x - a) > CLOSE * a:
        x, count = (x + a / x) / 2, count + 1
    return x, count


def static_root(a: Any) -> Any:
    """The same for a graph, which is declared before there is a value: always as many steps as might be needed."""
    x = a
    for _ in range(ENOUGH):
        x = gc.where(gc.abs(x * x - a) > CLOSE * a, (x + a / x) / 2, x)
    return x


def slope(a: float) -> tuple[float, float, int]:
    """The eager root of a number, its derivative, and the steps: the gradient goes back along those that were taken."""
    t = ge.tensor(a, requires_grad=True)
    x, count = root(t)
    x.backward()
    return float(x), float(t.grad), count


def static_slope(numbers: list[float]) -> list[tuple[float, float]]:
    """The static root of each number, and its derivative."""
    with gc.Graph(), gc.Session() as sess:
        a = gc.placeholder("a", shape=())
        x = static_root(a)
        step = sess.compile([x, *gc.gradients(x, [a])], feeds=[a])
        return [(float(y), float(dy)) for y, dy in (step(np.float32(number)) for number in numbers)]


def formula(number: int, x: Any) -> Any:
    """One of 256 formulas: a sum of a chain of eight ops, each of which is one of two."""
    for bit in range(8):
        x = gc.tanh(x) if number >> bit & 1 else x * x
    return gc.sum(x)


def once(numbers: list[int]) -> dict[str, tuple[float, list[float]]]:
    """Milliseconds for computing each formula one time, and the values; the ops themselves were used before."""
    x = np.linspace(-1, 1, 100, dtype="float32")

    def in_eager(number: int) -> float:
        return float(formula(number, ge.tensor(x)))

    def in_static(number: int) -> float:
        with gc.Graph(), gc.Session() as sess:
            fed = gc.placeholder("x", shape=("n",))
            return float(sess.run(formula(number, fed), {fed: x}))

    found = {}
    for name, compute in (("static", in_static), ("eager", in_eager)):
        for _ in range(3):  # the calls that it takes until a program is machine code alone
            compute(0b01010101)
        started = time.perf_counter()
        values = [compute(number) for number in numbers]
        found[name] = (1e3 * (time.perf_counter() - started) / len(numbers), values)
    return found


def suspicious(x: Any) -> Any:
    """Something is infinite here; but where?"""
    shifted = x - gc.max(x)
    rest = 1 - gc.exp(shifted)
    logs = gc.log(rest)
    return gc.mean(logs)


def stepped(fn: Callable[[Any], Any], argument: Any) -> list[str]:
    """What a debugger shows of `fn`, line by line: the variables as they are assigned."""
    seen: dict[str, str] = {}

    def look(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code is not fn.__code__:
            return None
        seen.update({name: f"{name} = {value!r}" for name, value in frame.f_locals.items() if name not in seen})
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        fn(argument)
    finally:
        sys.settrace(before)
    return list(seen.values())


# --------------------------------------------------------------------------------------------- telling it


def show_training(steps: int, rounds: int, out: Path) -> None:
    """Losses, times, the ledger and its chart."""
    losses = train(steps)
    shown = range(0, steps, max(1, steps // 5))
    for name, found in losses.items():
        print(f"{name:8s}", " ".join(f"{found[k]:.6f}" for k in shown))
    print(f"the losses of {steps} steps differ by {furthest(losses):.1e} at most")
    times = microseconds(rounds)
    print("a step takes", ", ".join(f"{took:.1f} us in {name}" for name, took in times.items()))
    found = ledger(rounds)
    print(f"\n{found}\n")
    try:
        found.plot(out / "static_vs_eager.png")
        print(f"wrote {(out / 'static_vs_eager.png').resolve()}")
    except gc.MissingExtra as missing:
        print(missing)


def show_eager() -> None:
    """What eager does better."""
    print("\n`while` on a value, and the gradient of what it did:")
    numbers = [1.0, 2.0, 100.0]
    for number, (x, dx) in zip(numbers, static_slope(numbers), strict=True):
        y, dy, count = slope(number)
        print(f"  root of {number:g}: eager {y:.6f}, slope {dy:.6f}, after {count} steps;", end=" ")
        print(f"static {x:.6f}, slope {dx:.6f}, after {ENOUGH} steps")

    numbers = list(itertools.islice(range(3, 256, 25), 10))
    print("what is computed only once, milliseconds a formula:")
    print(" ", ", ".join(f"{name} {took:.2f}" for name, (took, _) in once(numbers).items()))

    print("a debugger, line by line:")
    values = np.array([1, 2, 4], "float32")
    with gc.Graph():
        for fed in (ge.tensor(values), gc.placeholder("x", shape=(3,))):
            print(" ", "\n  ".join(stepped(suspicious, fed)), "\n")


def main(steps: int, rounds: int, out: Path) -> None:
    """Train everywhere, show where the time goes, and then what eager does better."""
    show_training(steps, rounds, out)
    show_eager()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each system")
    parser.add_argument("--out", type=Path, default=Path(), help="the folder to write to")
    arguments = parser.parse_args()
    main(arguments.steps, arguments.rounds, arguments.out)
