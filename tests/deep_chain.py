"""Everything that can be done with a chain of 20,000 nodes, where Python may not recurse: run by `test_complexity.py`.

Prints the name of each thing that was done.
"""

from __future__ import annotations

import gc as collector
import sys
import tempfile
from pathlib import Path

import networkx  # noqa: F401 - imported before recursion is limited, as are the others
import numpy as np
import onnx.checker
import onnx.helper
import onnx.shape_inference  # noqa: F401

import graphc as gc
from graphc.exporters import graphviz, images  # noqa: F401
from graphc.runtime.plan import run_plan
from graphc.verify import verify

DEPTH = 20_000
FRAMES = 150  # a chain of nodes is over a hundred times as long


def main(folder: Path) -> None:
    """Build, differentiate, run, plan, print, draw, export and drop the chain."""
    with gc.Graph() as graph:
        w = gc.Variable(np.full(3, 0.5, np.float32), name="w")
        x = gc.placeholder("x", (3,))
        h = x
        for _ in range(DEPTH // 2):
            h = gc.tanh(h) * w
        loss = gc.sum(h)
        print("build")
        (slope,) = gc.gradients(loss, [w])
        print("gradients")
        verify(gc.Program((x,), (loss, slope), ()))
        print("verify")
        feeds = {x: np.ones(3, np.float32)}
        with gc.Session(device="reference") as sess:
            sess.run([loss, slope, w.assign(w - slope)], feeds)
            print("run")
            plan = sess.plan([loss, slope], feeds)
            assert plan.report()
            print("plan")
            run_plan(plan, {**feeds, w: sess[w]}, {}, np.random.default_rng(0))
            print("run by plan")
            gc.export_onnx(folder / "chain.onnx", inputs=[x], outputs=[h], session=sess)
            print("export")
        assert gc.text([loss, slope]).count("\n") > DEPTH
        print("text")
        gc.render([loss, slope], folder / "chain.dot")
        print("draw")
        graph.to_networkx()
        print("networkx")
    del x, w, h, loss, slope, feeds, plan, sess
    collector.collect()
    assert len(graph) == 0, f"{len(graph)} nodes are left"
    print("delete")


if __name__ == "__main__":
    sys.setrecursionlimit(FRAMES)
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
