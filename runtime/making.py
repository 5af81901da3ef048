"""From a program to what runs it: by the passes and a target, or from what an earlier process has kept of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

from graphc.ir import Program
from graphc.runtime.cpu import likely, outlines, packs, parts
from graphc.runtime.cpu.jit import Code, Loading, expect, new_compiler
from graphc.runtime.cpu.kernels import function
from graphc.runtime.cpu.packs import Pack
from graphc.runtime.cpu.target import CpuExecutable, CpuTarget, shared_parts
from graphc.runtime.needs import Needs, needs_of
from graphc.runtime.reference import Executable, Target


class Making(NamedTuple):
    """A program on its way.

    Attributes:
        needs: what its runs take.
        finish: gives what runs it.
    """

    needs: Needs
    finish: Callable[[], Executable]


def making(
    target: Target,
    program: Program,
    resolve: Callable[[Program], Program],
    optimise: Callable[[Program], Program],
    settings: Sequence[str],
) -> Making:
    """Begin with a program for a target.

    Args:
        program: before its mode is chosen.
        resolve: chooses the mode.
        optimise: runs the passes on what that gives.
        settings: what they depend on besides the program and the target.
    """
    if not isinstance(target, CpuTarget):
        return _anew(resolve(program), optimise, target.compile)
    key = outlines.key_of(program, [*settings, repr(target.host), target.conv_precision, *sorted(target.disable)])
    found = outlines.recalled(key, program, _loaded)
    if found is not None:
        whole = cache(lambda: target.compile(optimise(resolve(program))))
        return Making(found.needs, lambda: CpuExecutable(target, found.symbolic, found.pack, whole))
    # Other threads compile that while the passes run.
    compiler = new_compiler()
    parts.begin(shared_parts(0 if key is None else packs.MIN_KERNELS), compiler)
    if key is not None:
        expect(likely.functions(program, target.host), partial(function, target.host), compiler)
    made = _anew(resolve(program), optimise, partial(target.compile, compiler=compiler))

    def finish() -> Executable:
        executable = made.finish()
        if isinstance(executable, CpuExecutable) and executable.is_plain:
            outlines.keep(key, program, made.needs, executable.symbolic, executable.pack)
        return executable

    return Making(made.needs, finish)


def _anew(
    resolved: Program, optimise: Callable[[Program], Program], compile: Callable[[Program], Executable]
) -> Making:
    optimised = optimise(resolved)
    return Making(needs_of(resolved, optimised), lambda: compile(optimised))


def _loaded(pack: Pack) -> Sequence[Code]:
    """The code of a plan, which another thread links while the rest of the plan is read; what runs the plan finds it.

    That of several object files is left to what runs the plan: it knows the functions that these call.
    """
    if not pack.whole:
        return ()
    loading = Loading(recalled=pack.objects)
    for part in shared_parts(len(pack.natives)):
        part.take(loading)
    for unit in pack.units:
        if unit is not None and unit.key in pack.objects.images:
            loading.take(pack.loaded(unit), str)  # it is there: no assembly is asked for
    return loading.codes(later=True)
