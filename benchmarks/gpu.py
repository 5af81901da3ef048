"""graphc on a GPU beside torch, torch.compile and JAX there: each in a process of its own, their turns interleaved.

All have their data on the GPU, and a step ends when its result is there. What multiplies matrices is measured as
float32 is, and with operands that are rounded to tf32 and to bfloat16: torch by `allow_tf32` and `torch.autocast`, JAX
by its default precision. graphc keeps float32 in memory in each of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import graphc as gc
from benchmarks.options import Options
from benchmarks.peers import AGREEMENT, figures, interleaved, show
from benchmarks.systems import GPU_SYSTEMS, PRECISIONS
from benchmarks.workloads import GPU

AGREEMENTS = {"float32": AGREEMENT, "tf32": 5e-3, "bfloat16": 5e-2}  # of the largest value
OWN = "graphc"


def compare(options: Options) -> bool:
    """Measure all wanted workloads and print them; whether every goal was reached. Without a GPU, say so."""
    try:
        gc.Session(device="cuda").close()
    except gc.GraphcError as error:
        print(f"nothing is measured on a GPU: {error.message}")
        return True
    report: list[dict[str, Any]] = []
    reached = True
    print(f"{options.rounds} rounds of {options.turn} s; medians (quartiles)")
    for key, workload in GPU.items():
        for precision in PRECISIONS if workload.rounds else PRECISIONS[:1]:
            if not options.wants(key):
                continue
            ending = f" cuda {precision}"
            known = [name.removesuffix(ending) for name in GPU_SYSTEMS if name.endswith(ending)]
            names = [name for name in known if name == OWN or not options.systems or name in options.systems]
            found, missing = interleaved([name + ending for name in names], key, options)
            results = {name.removesuffix(ending): each for name, each in found.items()}
            failures = {name.removesuffix(ending): why for name, why in missing.items()}
            titled = workload._replace(title=f"{workload.title}, {precision}")
            reached &= show(titled, results, failures, AGREEMENTS[precision])
            report.append({"workload": key, "precision": precision, "failures": failures, **figures(results)})
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1), encoding="utf-8")
    return reached
