"""Named dimensions: sizes that are known when the graph runs, checked and computed with while it is built.

    python examples/named_dims.py

A string in a shape names a size. Equal names are equal sizes, in every run; sizes that follow from them are worked
out symbolically; axes can be addressed by name; what can't be proven is checked against the feeds.
"""

from __future__ import annotations

import numpy as np

import graphc as gc


def main() -> None:
    """Show inference, reduction by name, sizes that change from run to run, and two mistakes."""
    images = gc.placeholder("images", shape=("batch", 3, "height", "width"))
    kernel = gc.Variable(np.ones((8, 3, 5, 5), "float32") / 75, name="kernel")
    features = gc.max_pool2d(gc.conv2d(images, kernel, stride=2), 2)
    print("features:", features.type)

    brightness = images.mean(("height", "width"))
    contrast = images - images.mean(("height", "width"), keepdims=True)
    print("brightness:", brightness.type, " contrast:", contrast.type)

    with gc.Session() as sess:
        for batch, size in [(1, 32), (4, 21), (0, 64)]:
            value = np.random.default_rng(0).random((batch, 3, size, size), dtype=np.float32)
            f, b = sess.run([features, brightness], {images: value})
            print(f"fed {value.shape}: features {f.shape}, brightness {b.shape}")
        print("plans compiled:", sess.cache_info().misses)

        halves = images[:, :, ::2].sum("width") + images[:, :, 1::2].sum("width")  # as many odd rows as even ones
        try:
            sess.run(halves, {images: np.zeros((2, 3, 7, 7), "float32")})
        except gc.GraphcError as error:
            print(f"\n{type(error).__name__}: {error}")

    words = gc.placeholder("words", shape=("batch", "time"))
    frames = gc.placeholder("frames", shape=("batch", "seconds"))
    try:
        words + frames
    except gc.GraphcError as error:
        print(f"\n{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
