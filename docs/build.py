"""Renews what is generated in this folder: `make docs`.

Pictures are laid out by the packaged layout engine, whatever the machine has, so that they are the same everywhere.
"""

from __future__ import annotations

import doctest
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import graphc as gc
from graphc.exporters.images import FORMATS
from graphc.runtime.cpu.dump import machine_code
from graphc.runtime.cpu.host import HOSTS
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


TEXTS: dict[tuple[str, str], Callable[[], str]] = {("cpu.md", "loop"): loop}


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


if __name__ == "__main__":
    for name in PICTURES:
        path = HERE / f"{name}.svg"
        path.write_bytes(FORMATS["svg"](drawing(name).source))
        print(f"wrote {path}")
    for (page, name), text in TEXTS.items():
        path = HERE / page
        path.write_text(with_text(path.read_text(encoding="utf-8"), name, text()), encoding="utf-8")
        print(f"wrote {path}")
