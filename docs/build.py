"""Renews the pictures in this folder: `make docs`.

They are laid out by the packaged layout engine, whatever the machine has, so that they are the same everywhere.
"""

from __future__ import annotations

import doctest
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphc as gc
from graphc.exporters.images import FORMATS

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


def drawing(name: str) -> Any:
    """The picture of this name as a `graphviz.Digraph`."""
    with gc.Graph():
        return PICTURES[name]()


if __name__ == "__main__":
    for name in PICTURES:
        path = HERE / f"{name}.svg"
        path.write_bytes(FORMATS["svg"](drawing(name).source))
        print(f"wrote {path}")
