"""Train a small convolutional net on real handwriting, check it, and ship it: the main job of graphc, whole.

    python examples/digits.py [--epochs 30] [--out .]

Prints the accuracy on held-out images; writes `digits.safetensors` (weights), `digits.onnx` (the model, verified
against onnxruntime at batch sizes that were never traced) and `digits.svg` (a picture of the training graph).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import graphc as gc
from graphc.data import DataLoader, digits, progress, say


def network(dropout: float = 0.3):
    """The model: images `[batch, 1, 8, 8]` to logits `[batch, 10]`."""
    return gc.nn.Sequential(
        gc.nn.Conv2d(1, 16, 3, padding=1),
        gc.nn.BatchNorm2d(16),
        gc.nn.ReLU(),
        gc.nn.Conv2d(16, 32, 3, padding=1),
        gc.nn.BatchNorm2d(32),
        gc.nn.ReLU(),
        gc.nn.MaxPool2d(2),
        gc.nn.Flatten(),
        gc.nn.Dropout(dropout),
        gc.nn.Linear(32 * 4 * 4, 10),
    )


def batches():
    """The training images and labels, shuffled anew each time they are gone through."""
    return DataLoader(digits("train"), batch_size=64, shuffle=True, seed=0)


def declare(rate: float, dropout: float = 0.3):
    """The graph: inputs, model, loss, accuracy and one training step. Nothing is computed here."""
    images = gc.placeholder("images", shape=("batch", 1, 8, 8))
    labels = gc.placeholder("labels", shape=("batch",), dtype="int64")
    logits = network(dropout)(images)
    loss = gc.losses.cross_entropy(logits, labels)
    train = gc.optim.Adam(lr=rate).minimize(loss)
    return images, labels, logits, loss, gc.metrics.accuracy(logits, labels), train


def main(epochs: int, out: Path) -> float:
    """Train, report, save, export and draw; returns the accuracy on the held-out images."""
    images, labels, logits, loss, accuracy, train = declare(rate=2e-3)
    loader = batches()
    held_out = dict(zip((images, labels), digits("test").arrays(), strict=True))

    with gc.Session(seed=0) as sess:
        step = sess.compile([loss, train], feeds=[images, labels])
        for epoch in progress(range(epochs), desc="training"):
            losses = [float(step(*batch)[0]) for batch in loader]
            say(f"epoch {epoch + 1:2d}: mean loss {sum(losses) / len(losses):.4f}")
        found = float(sess.run(accuracy, held_out))
        print(f"test accuracy {found:.2%} on {len(held_out[labels])} held-out images, on device {sess.device!r}")

        sess.save(out / "digits.safetensors")
        exported = gc.export_onnx(
            out / "digits.onnx", inputs=[images], outputs={"logits": logits}, session=sess, verify=True
        )
        print(f"exported {exported.size:,} bytes at opset {exported.opset}, run by {exported.verification.runner}:")
        for trial in exported.verification.deviations:
            print(f"  batch {trial.sizes['batch']}: differs from graphc by {trial.absolute:.1e} at most")
    gc.render(train, out / "digits.svg")
    print(f"wrote digits.safetensors, digits.onnx and digits.svg to {out.resolve()}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    parser.add_argument("--out", type=Path, default=Path(), help="the folder to write to")
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.out)
