"""Renews what is generated in this folder: `make docs`.

Pictures are laid out by the packaged layout engine, whatever the machine has, so that they are the same everywhere.
What is measured is that of the machine, and written between marks; its charts are in measured/. PyTorch is measured
where it is installed, here or by `make bench-peers`.
"""

from __future__ import annotations

import doctest
import os
import platform
import re
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import graphc as gc
from graphc import eager as ge
from graphc.exporters.images import FORMATS
from graphc.ledger import TURN, interleaved
from graphc.runtime.cpu.dump import machine_code
from graphc.runtime.cpu.host import HOSTS, available_threads, this_host
from graphc.runtime.cpu.kernels import native_kernel

HERE = Path(__file__).parent


def training() -> Any:
    """The training step of the first script in the README."""
    path = HERE.parent / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition("```python\n")
    names: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples(rest.partition("```")[0]):
        above = before.count("\n") + 1 + example.lineno
        exec(compile("\n" * above + example.source, str(path), "exec"), names)
    return gc.render(names["train"])


def digits() -> Any:
    """The network of the digits example, as it is exported."""
    _, _, logits, *_ = runpy.run_path(str(HERE.parent / "examples" / "digits.py"))["declare"](rate=1e-3)
    return gc.render({"logits": logits})


class Block(gc.nn.Module):
    """A block of a transformer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = gc.nn.LayerNorm(size), gc.nn.LayerNorm(size)
        self.q, self.k, self.v, self.o = (gc.nn.Linear(size, size) for _ in range(4))
        self.up, self.down = gc.nn.Linear(size, 4 * size), gc.nn.Linear(4 * size, size)

    def forward(self, x: Any) -> Any:
        """`x` after attention and a feed-forward network, `[batch, time, size]`."""
        h = self.norm1(x)
        x = x + self.o(gc.scaled_dot_product_attention(self.q(h), self.k(h), self.v(h), is_causal=True))
        return x + self.down(gc.gelu(self.up(self.norm2(x))))


def repeats() -> Any:
    """Twelve equal blocks, drawn once."""
    tokens = gc.placeholder("tokens", shape=("batch", "time"), dtype="int64")
    blocks = gc.nn.Sequential(*[Block(256) for _ in range(12)])
    parts = {"embedding": gc.nn.Embedding(1000, 256), "blocks": blocks, "head": gc.nn.Linear(256, 1000)}
    model = gc.nn.Sequential(parts)
    return gc.render({"logits": model(tokens)})


PICTURES: dict[str, Callable[[], Any]] = {"training": training, "digits": digits, "repeats": repeats}


def loop() -> str:
    """The machine code of the loop of the first kernel on the page on the CPU."""
    with gc.Graph(), gc.Session(device="plan") as session:
        x, b = (gc.placeholder(name, shape=("n",)) for name in "xb")
        kernel = session.plan(gc.relu(x * 2.5 + b), {x: np.zeros(1), b: np.zeros(1)}).kernels[0].kernel
    host = HOSTS["avx2"]
    native = native_kernel(kernel, host)
    assert native is not None
    blocks = re.split(r"^(?=\.L\w+:)", machine_code(native.assembly, host), flags=re.MULTILINE)
    longest = max(blocks, key=lambda block: len(re.findall(r"^\tv(?:mul|add|max)ps", block, re.MULTILINE)))
    instructions = longest.partition("\tjmp")[0].rstrip().expandtabs(8)
    return f"```asm\n{instructions}\n```"


# ------------------------------------------------------------------------------------------- what is measured


def compared() -> dict[str, Any]:
    """The names of the example that compares static with eager."""
    return runpy.run_path(str(HERE.parent / "examples" / "static_vs_eager.py"))


def eager_step(model: Callable[..., Any], params: Any, rules: Any, loss_of: Callable[..., Any]) -> Callable[..., Any]:
    """A training step of a model on eager tensors, which returns the loss as a static step does."""
    optimizer = ge.optimizer(rules, params)

    def step(inputs: Any, targets: Any) -> list[Any]:
        optimizer.zero_grad()
        loss = loss_of(model(ge.tensor(inputs)), ge.tensor(targets))
        loss.backward()
        optimizer.step()
        return [loss.detach(), None]

    return step


def line_data() -> tuple[Any, Any]:
    """Eleven points on a line."""
    xs = np.linspace(1, 8, 11, dtype="float32")
    return xs, 3 * xs - 1


def declared_line() -> tuple[list[Any], list[Any]]:
    """Linear regression, eleven points: what is fetched, and what is fed."""
    with gc.Graph():
        x, y = (gc.placeholder(name, shape=("n",)) for name in "xy")
        w, b = gc.Variable(1.0, name="w"), gc.Variable(0.0, name="b")
        loss = gc.losses.mse_loss(w * x + b, y)
        return [loss, gc.optim.SGD(lr=1e-2).minimize(loss)], [x, y]


def eager_line() -> Callable[..., Any]:
    """The same eagerly."""
    w, b = ge.tensor(1.0, requires_grad=True), ge.tensor(0.0, requires_grad=True)
    return eager_step(lambda inputs: w * inputs + b, [w, b], gc.optim.SGD(lr=1e-2), gc.losses.mse_loss)


def torch_line() -> Callable[..., Any]:
    """The same in PyTorch."""
    import torch

    torch.set_num_threads(1)
    w, b = torch.tensor(1.0, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    optimizer = torch.optim.SGD([w, b], lr=1e-2)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(w * torch.from_numpy(x) + b, torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        return [loss.detach(), None]

    return step


def line(rounds: int) -> gc.Ledger:
    """Linear regression."""
    fetches, feeds = declared_line()
    return gc.ledger(fetches, dict(zip(feeds, line_data(), strict=True)), eager=eager_line(), rounds=rounds)


def spirals(rounds: int) -> gc.Ledger:
    """The network of the example."""
    found: gc.Ledger = compared()["ledger"](rounds)
    return found


def layers() -> Any:
    """784-256-128-10, with ReLU between."""
    nn = gc.nn
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def mlp(rounds: int) -> gc.Ledger:
    """A training step with Adam, batch 64."""
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((64, 784), "float32"), rng.integers(0, 10, 64)
    rules = gc.optim.Adam(lr=1e-3)
    with gc.Graph():
        twin = ge.module(layers(), seed=0)
    with gc.Graph():
        x = gc.placeholder("x", shape=("batch", 784))
        y = gc.placeholder("y", shape=("batch",), dtype="int64")
        loss = gc.losses.cross_entropy(layers()(x), y)
        step = eager_step(twin, twin, rules, gc.losses.cross_entropy)
        return gc.ledger([loss, rules.minimize(loss)], {x: images, y: labels}, eager=step, rounds=rounds)


def inference(rounds: int) -> gc.Ledger:
    """The logits of the digits example for 16 images."""
    names = runpy.run_path(str(HERE.parent / "examples" / "digits.py"))
    given = np.random.default_rng(0).random((16, 1, 8, 8), "float32")
    with gc.Graph():
        twin = ge.module(names["network"](), seed=0)

    def step(images: Any) -> Any:
        with ge.no_grad(), ge.set_training(False):
            return twin(ge.tensor(images))

    with gc.Graph():
        images = gc.placeholder("images", shape=("batch", 1, 8, 8))
        return gc.ledger(names["network"]()(images), {images: given}, eager=step, rounds=rounds)


ROUNDS = 61
STEPS = 100  # whose losses are compared
LEDGERS: dict[str, Callable[[int], gc.Ledger]] = {"line": line, "spirals": spirals, "mlp": mlp, "inference": inference}


@cache
def measured(name: str) -> gc.Ledger:
    """The ledger of this name, measured once: in a process and with a cache of code that know nothing of the others."""
    with tempfile.TemporaryDirectory() as empty, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(ledger_of, name, empty).result()


def ledger_of(name: str, folder: str) -> gc.Ledger:
    """The ledger of this name, with the code that is compiled for it in a folder."""
    os.environ["XDG_CACHE_HOME"] = folder
    return LEDGERS[name](ROUNDS)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of a page; all columns but the first are numbers."""
    lines = [heads, ("---", *["---:"] * (len(heads) - 1)), *rows]
    return "\n".join([f"| {' | '.join(cells)} |" for cells in lines])


def ledger_table(name: str) -> str:
    """A ledger as text."""
    return f"```text\n{measured(name)}\n```"


def digits3(number: float) -> str:
    """`1.234` as `1.23`, `1234.5` as `1,234`."""
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


def payback() -> str:
    """A row for each ledger."""
    heads = ("model", "eager, µs", "static, µs", "times as fast", "compiling, ms", "paid for after")
    rows = []
    for name, found in zip(LEDGERS, map(measured, LEDGERS), strict=True):
        times = [digits3(1e6 * way.median) for way in (found.base, found.full)]
        steps = "never" if found.payback is None else f"{found.payback:,} steps"
        rows.append((name, *times, digits3(found.speedup), f"{1e3 * found.compile_seconds:.0f}", steps))
    return table(heads, rows)


def machine() -> str:
    """Where the page is built."""
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, graphc {gc.__version__}"
    load = f", under a load of {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"with {available_threads()} threads of a processor that LLVM calls {this_host().cpu}{load}: {versions}."


def systems() -> str:
    """A training step of the line and of the spirals in each system, turn by turn."""
    names = compared()
    fetches, feeds = declared_line()
    lines = {"static": gc.Session().compile(fetches, feeds), "eager": eager_line()}
    spiralling = names["systems"]()
    if "PyTorch" in spiralling:
        lines["PyTorch"] = torch_line()
    columns = [compared_with_static(medians(lines, line_data()))]
    columns.append(compared_with_static(medians(spiralling, names["spirals"]())))
    furthest = names["furthest"](names["train"](STEPS))
    heads = ("system", "the line, µs", "times static's", "the spirals, µs", "times static's")
    told = f"The losses of {STEPS} steps of the spirals differ by {furthest:.1e} at most."
    return f"{table(heads, [(name, *columns[0][name], *columns[1][name]) for name in lines])}\n\n{told}"


def compared_with_static(took: Mapping[str, float]) -> dict[str, tuple[str, str]]:
    """The cells of each system: microseconds, and how many times static's they are."""
    return {name: (digits3(time), f"{digits3(time / took['static'])}x") for name, time in took.items()}


def medians(steps: Mapping[str, Callable[..., Any]], data: Sequence[Any]) -> dict[str, float]:
    """Microseconds a step of each system."""
    seconds = interleaved({name: partial(step, *data) for name, step in steps.items()}, ROUNDS, TURN)
    return {name: 1e6 * median(turns) for name, turns in seconds.items()}


def once() -> str:
    """Milliseconds for a formula that is computed one time."""
    took = compared()["once"](list(range(3, 253, 25)))
    return table(("", "a formula, ms"), [(name, f"{ms:.3g}") for name, (ms, _) in took.items()])


def stepped() -> str:
    """What a debugger shows, eagerly and of a graph."""
    names = compared()
    with gc.Graph():
        fed = (ge.tensor([1.0, 2.0, 4.0]), gc.placeholder("x", shape=(3,)))
        shown = ["\n".join(names["stepped"](names["suspicious"], argument)) for argument in fed]
    return "```text\n{}\n\n{}\n```".format(*shown)


STATIC = "static_vs_eager.md"
TEXTS: dict[tuple[str, str], Callable[[], str]] = {
    ("cpu.md", "loop"): loop,
    **{(STATIC, name): partial(ledger_table, name) for name in LEDGERS},
    **{(STATIC, text.__name__): text for text in (payback, machine, systems, once, stepped)},
}


def with_text(page: str, name: str, text: str) -> str:
    """A page in which what stands between the marks of this name is renewed."""
    before, begin, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not begin or not end:
        raise ValueError(f"the page has no marks <!-- {name} --> and <!-- /{name} -->")
    return f"{before}{begin}{text}\n{end}{after}"


def drawing(name: str) -> Any:
    """The picture of this name as a `graphviz.Digraph`."""
    with gc.Graph():
        return PICTURES[name]()


def build() -> None:
    """Renew everything."""
    for name in PICTURES:
        path = HERE / f"{name}.svg"
        path.write_bytes(FORMATS["svg"](drawing(name).source))
        print(f"wrote {path}")
    for name in LEDGERS:
        path = HERE / "measured" / f"{name}.svg"
        measured(name).plot(path)
        print(f"wrote {path}")
    for (page, name), text in TEXTS.items():
        path = HERE / page
        path.write_text(with_text(path.read_text(encoding="utf-8"), name, text()), encoding="utf-8")
        print(f"wrote {name} into {path}")


def find_peers() -> None:
    """Let PyTorch be imported from the environment of the peers, if it isn't installed in this one."""
    folder = HERE.parent / ".venv-peers" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if find_spec("torch") is None and folder.exists():
        sys.path.append(str(folder / "site-packages"))


if __name__ == "__main__":
    find_peers()
    build()
