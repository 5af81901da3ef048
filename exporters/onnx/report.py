"""What was exported: the result of an export, and its report as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from graphc.exporters.onnx.export import Exported
from graphc.exporters.onnx.verify import TOLERANCE, Verification


@dataclass(frozen=True)
class ExportResult:
    """An exported model.

    Attributes:
        path: the file.
        opset, ir_version: of the model.
        size: of the file, in bytes.
        inputs, outputs: their types, by name.
        operators: how often each operator of ONNX occurs.
        warnings: what may surprise, such as a higher opset than the default.
        verification: how far the model was off on which inputs; None if it wasn't verified.
    """

    path: Path
    opset: int
    ir_version: int
    size: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    operators: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    verification: Verification | None = None

    def __str__(self) -> str:
        return markdown(self)


def result_of(
    exported: Exported, path: Path, size: int, warnings: Sequence[str], verification: Verification | None
) -> ExportResult:
    """The result for a model that was written to `path`."""
    return ExportResult(
        path,
        exported.opset,
        exported.model.ir_version,
        size,
        {name: str(type) for name, type in exported.inputs.items()},
        {name: str(type) for name, type in exported.outputs.items()},
        exported.operators,
        tuple(warnings),
        verification,
    )


def markdown(result: ExportResult) -> str:
    """The report for people."""
    counts = sorted(result.operators.items(), key=lambda item: (-item[1], item[0]))
    lines = [
        f"# {result.path.name}",
        "",
        f"opset {result.opset}, IR version {result.ir_version}, {result.size:,} bytes; passes all checks of onnx",
        "",
        *_table(("input", "type"), result.inputs.items()),
        *_table(("output", "type"), result.outputs.items()),
        *_table(("operator", "count"), counts),
        *([*(f"- {warning}" for warning in result.warnings), ""] if result.warnings else []),
        *_verified(result.verification),
    ]
    return "\n".join(lines)


def _verified(verification: Verification | None) -> list[str]:
    if verification is None:
        return ["Not verified.", ""]
    allowed = ", ".join(f"{tolerance:g} for {dtype}" for dtype, tolerance in TOLERANCE.items())
    rows = [
        (d.output, ", ".join(f"{k} = {v}" for k, v in d.sizes.items()), f"{d.absolute:.3g}", f"{d.relative:.3g}")
        for d in verification.deviations
    ]
    return [
        f"Verified with {verification.runner}. Elements may differ by a share of the largest one: {allowed}.",
        "",
        *([f"ONNX Runtime did not run it: {verification.refusal}", ""] if verification.refusal else []),
        *_table(("output", "sizes", "largest difference", "share of the largest element"), rows),
    ]


def _table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *cells)] + [""]


def as_json(result: ExportResult) -> str:
    """The report for programs."""
    return json.dumps({**asdict(result), "path": str(result.path)}, indent=2, ensure_ascii=True)
