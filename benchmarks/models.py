"""The models that torch and graphc are measured on, written once: both have the same layers under the same names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.workloads import GPT_HEADS, GPT_LAYERS, GPT_TIME, GPT_WIDTH, GPT_WORDS, RESNET_BLOCKS


class Library(NamedTuple):
    """What the models are made of.

    Attributes:
        nn: the layers: `torch.nn`, or `graphc.nn`.
        attention: `scaled_dot_product_attention(query, key, value, is_causal=)`.
        unstack: `(x, axis) -> slices`.
    """

    nn: Any
    attention: Callable[..., Any]
    unstack: Callable[..., Any]


def mlp(library: Library) -> Any:
    """784-256-128-10, with ReLU between."""
    nn = library.nn
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def lenet(library: Library) -> Any:
    """LeCun et al., "Gradient-based learning applied to document recognition" (1998), with ReLU and max pooling."""
    nn = library.nn
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def resnet18(library: Library) -> Any:
    """He et al., "Deep residual learning for image recognition" (2016), for 1,000 classes."""
    nn = library.nn

    class Residual(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.c1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.b1 = nn.BatchNorm2d(outputs)
            self.c2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.b2 = nn.BatchNorm2d(outputs)
            shortcut = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            self.d = nn.Sequential(*(shortcut if (inputs, stride) != (outputs, 1) else ()))
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            y = self.b2(self.c2(self.relu(self.b1(self.c1(x)))))
            return self.relu(y + self.d(x))

    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    blocks = [Residual(*block) for block in RESNET_BLOCKS]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def gpt(library: Library) -> Any:
    """A small transformer with the norms before (Radford et al., 2019): [batch, time] words to a score of each."""
    nn, width = library.nn, GPT_WIDTH

    class Block(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.norm2, self.gelu = nn.LayerNorm(width), nn.GELU("tanh")
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            batch, time, _ = x.shape
            split = self.qkv(self.norm1(x)).reshape(batch, time, 3, GPT_HEADS, width // GPT_HEADS)
            query, key, value = (part.swapaxes(1, 2) for part in library.unstack(split, 2))
            seen = library.attention(query, key, value, is_causal=True).swapaxes(1, 2)
            x = x + self.out(seen.reshape(batch, time, width))
            return x + self.down(self.gelu(self.up(self.norm2(x))))

    class Model(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(GPT_WORDS, width), nn.Embedding(GPT_TIME, width)
            self.blocks = nn.Sequential(*[Block() for _ in range(GPT_LAYERS)])
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, GPT_WORDS)

        def forward(self, words: Any) -> Any:
            x = self.tokens(words) + self.positions.weight
            return self.head(self.norm(self.blocks(x)))

    return Model()
