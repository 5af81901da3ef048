"""What a module keeps: recipes of parameters and buffers, which become variables once the module knows its names."""

from __future__ import annotations

from typing import Any, ClassVar

from graphc.dims import Dim
from graphc.errors import ShapeError
from graphc.occurrences import Occurrence
from graphc.ops.state import Initial, Recipe, Variable, recipe
from graphc.source import user_site
from graphc.types import is_float


class State:
    """A value of a module, by its recipe: a `Parameter` or a `Buffer`.

    Args:
        initial: the first value: a number, list or array, an initialiser (see `graphc.nn.init`) with `shape` given,
            or a tensor such as `gc.random.normal((3, 4))`.
        shape, dtype: of the value; needed for an initialiser, otherwise taken from the value.
        trainable: whether optimisers change it by default.

    Attributes:
        type: dtype and shape of the value.
        value: the variable, once the module has its names; or the tensor that stands for it in eager execution.
    """

    trainable_by_default: ClassVar[bool]

    def __init__(self, initial: Any, shape: Any = None, dtype: Any = None, trainable: bool | None = None) -> None:
        self._initial, self.type = recipe(initial, type(self).__name__, shape, dtype)
        default = self.trainable_by_default and is_float(self.type.dtype)
        self._trainable = default if trainable is None else trainable
        self._site = user_site()
        self.value: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.type}>"

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The dimensions."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """The dtype's name."""
        return self.type.dtype

    @property
    def identity(self) -> int:
        """Equal for states that are one value."""
        return id(self if self.value is None else self.value)

    @property
    def initial(self) -> Initial:
        """What makes the first value, in every session that hasn't made it yet."""
        return self._initial

    @initial.setter
    def initial(self, initial: Any) -> None:
        made, type = recipe(initial, "initial", self.shape, self.dtype)
        if type is not self.type:
            raise ShapeError(f"the initial value of {self!r} can't be {type}")
        self._initial = made
        if self.value is not None:
            self.value.initial = made

    @property
    def trainable(self) -> bool:
        """Whether `minimize` considers it by default."""
        return self._trainable if self.value is None else bool(self.value.trainable)

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        self._trainable = trainable
        if self.value is not None:
            self.value.trainable = trainable

    def make(self, name: str) -> None:
        """Make the variable, called `name` in the current scope; messages say that it was made where this state was."""
        self.value = Variable(Recipe(self._initial, self.type), name, self._trainable)
        self.value.where = Occurrence(self.value.scope, *self._site)


class Parameter(State):
    """A value that is trained, once it is assigned to an attribute of a module; arguments as for `State`."""

    trainable_by_default = True


class Buffer(State):
    """A value that is kept but not trained, such as a running mean; arguments as for `State`."""

    trainable_by_default = False


def state_of(variable: Variable) -> State:
    """The state whose variable exists already: a parameter if it is trainable."""
    kind = Parameter if variable.trainable else Buffer
    state = kind(Recipe(variable.initial, variable.tensor_type), trainable=variable.trainable)
    state.value = variable
    return state
