"""Builds the wheel, installs it in a fresh environment far from the checkout, runs `installed.py` in it."""

import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command; one that fails ends the script with its exit status."""
    status = subprocess.run(command, cwd=cwd, check=False).returncode
    if status:
        sys.exit(status)


def build_wheel(folder: Path) -> Path:
    """The wheel of the checkout, built into `folder`. Leftovers of former builds would be packed too."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("graphc-*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Whatever the wheel would put beside the package ends the script."""
    with zipfile.ZipFile(wheel) as archive:
        strays = [name for name in archive.namelist() if not name.startswith(("graphc/", "graphc-"))]
    if strays:
        sys.exit(f"{wheel.name} would install outside the package: {strays}")


def main() -> None:
    """Build, install, run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        check_contents(wheel)
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        run(python, *PIP, "install", wheel, cwd=folder)
        run(python, "-I", "-W", "error", HERE / "installed.py", cwd=folder)
        print(f"{wheel.name}: installed with its core dependencies, every module imports")


if __name__ == "__main__":
    main()
