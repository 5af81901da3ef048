"""What `GRAPHC_DUMP=DIR` writes of a native plan: each kernel as kernel IR, LLVM assembly and machine code, and plans.

The names of the files sort in the order of the plan. Kernels call functions of a library, which are there too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from graphc.dumps import file_name, write
from graphc.plan import Plan, SymbolicPlan, Variant
from graphc.plan_text import step_name
from graphc.printer import text
from graphc.runtime.cpu import hot_loops
from graphc.runtime.cpu.host import Host, target_machine
from graphc.runtime.cpu.jit import OF_LIBRARY
from graphc.runtime.cpu.phases import NativeKernel


def dump_kernels(
    folder: Path,
    symbolic: SymbolicPlan,
    natives: Mapping[Variant, NativeKernel],
    host: Host,
    library: Callable[[str], str],
) -> None:
    """Write each distinct kernel of a plan, named by the first step that runs it, and what the code calls.

    Args:
        natives: the kernels that have code; of others there is the kernel IR alone.
        library: gives the functions that the kernels call.
    """
    first: dict[Variant, str] = {}
    for number, step in enumerate(symbolic.steps):
        first.setdefault(step.variant, f"{number:03d}-{file_name(step_name(step).replace(': ', '-'))}")
    for variant, name in first.items():
        native = natives.get(variant)
        notes = "runs in NumPy" if native is None else "; ".join(native.notes)
        write(folder / f"kernel-{name}.txt", "\n".join([text(variant.kernel), *([f"# {notes}"] if notes else [])]))
        if native is not None:
            _dump_code(folder / f"kernel-{name}", native.assembly, host)
    for symbol, assembly in _called([native.assembly for native in natives.values()], library).items():
        _dump_code(folder / f"library-{file_name(symbol)}", assembly, host)


def dump_plan(folder: Path, plan: Plan) -> None:
    """Write a plan for given sizes: the report, and every step and buffer."""
    sizes = "".join(f"-{name}={size}" for name, size in plan.dims.items())
    write(folder / f"plan{file_name(sizes)}.txt", f"{plan.report()}\n\n{text(plan)}")


def machine_code(assembly: str, host: Host) -> str:
    """A module of LLVM assembly as the assembly of a host: one after the other what is compiled apart."""
    glue, loops = hot_loops.parts(assembly)
    return "\n".join([_emitted(module, host) for module in (glue, *loops.values())])


def _emitted(module: str, host: Host) -> str:
    import llvmlite.binding as llvm

    machine = target_machine(host, plain=hot_loops.is_glue(module))  # which also makes LLVM ready
    found: str = machine.emit_assembly(llvm.parse_assembly(module, llvm.create_context()))
    return found


def _dump_code(path: Path, assembly: str, host: Host) -> None:
    write(path.with_name(f"{path.name}.ll"), assembly)
    write(path.with_name(f"{path.name}.s"), machine_code(assembly, host))


def _called(assemblies: Iterable[str], library: Callable[[str], str]) -> dict[str, str]:
    """The functions of the library that modules call, and those that these call."""
    found: dict[str, str] = {}
    waiting = list(assemblies)
    while waiting:
        for name in OF_LIBRARY.findall(waiting.pop()):
            if name not in found:
                found[name] = library(name)
                waiting.append(found[name])
    return dict(sorted(found.items()))
