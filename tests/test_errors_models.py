"""Messages of wrong layers, losses, state, own ops, gradients and optimisers."""

from __future__ import annotations

import numpy as np
from error_testing import Programs, check

import graphc as gc

broken = Programs()


def x(*shape, dtype="float32", name="x"):
    return gc.placeholder(name, shape=shape, dtype=dtype)


def variable(*shape, dtype="float32", name="w"):
    return gc.Variable(np.ones(shape, dtype), name=name)


# --- normalisation, attention, dropout


@broken(gc.ShapeError, "batch_norm", "[3]", "running_mean is float32[4]")
def batch_norm_statistics():
    a, mean, var = x(2, 3), x(4, name="mean"), x(3, name="var")
    return gc.batch_norm(a, mean, var)  # <-


@broken(gc.ShapeError, "layer_norm", "float32[2, 3]", "[4]")
def layer_norm_shape():
    return gc.layer_norm(x(2, 3), (4,))  # <-


@broken(gc.ShapeError, "group_norm", "num_groups=2", "float32[2, 3]")
def group_norm_groups():
    return gc.group_norm(x(2, 3), 2)  # <-


@broken(gc.DTypeError, "rms_norm", "int64[3]", "float")
def rms_norm_of_integers():
    return gc.rms_norm(x(3, dtype="int64"), 3)  # <-


@broken(gc.ArgumentError, "dropout", "[0, 1]", "1.5")
def dropout_probability():
    return gc.dropout(x(2, 3), 1.5)  # <-


@broken(gc.ShapeError, "scaled_dot_product_attention", "float32[2, 5, 4]", "float32[2, 6, 4]", "[..., S, E]")
def attention_keys():
    q, k, v = x(2, 3, 4), x(2, 5, 4, name="k"), x(2, 6, 4, name="v")
    return gc.scaled_dot_product_attention(q, k, v)  # <-


@broken(gc.ShapeError, "softmax", "axis 2", "[2, 3]")
def softmax_axis():
    return gc.softmax(x(2, 3), axis=2)  # <-


# --- losses and metrics


@broken(gc.ShapeError, "cross_entropy", "float32[2, 3]", "target [2]", "int64[3]")
def cross_entropy_batch():
    logits, y = x(2, 3), x(3, dtype="int64", name="y")
    return gc.cross_entropy(logits, y)  # <-


@broken(gc.ArgumentError, "cross_entropy", "'men'", "'mean'")
def cross_entropy_reduction():
    logits, y = x(2, 3), x(2, dtype="int64", name="y")
    return gc.cross_entropy(logits, y, reduction="men")  # <-


@broken(gc.ShapeError, "mse_loss", "float32[2, 3]", "float32[4]", "reshape one of them")
def mse_shapes():
    a, y = x(2, 3), x(4, name="y")
    return gc.mse_loss(a, y)  # <-


@broken(gc.DTypeError, "accuracy", "float32[2]", "integers")
def accuracy_labels():
    logits, y = x(2, 3), x(2, name="y")
    return gc.metrics.accuracy(logits, y)  # <-


# --- random draws


@broken(gc.ArgumentError, "bernoulli", "[0, 1]", "1.5")
def bernoulli_probability():
    return gc.random.bernoulli(1.5, (3,))  # <-


@broken(gc.ArgumentError, "normal", "floats", "'int32'")
def normal_integers():
    return gc.random.normal((3,), dtype="int32")  # <-


@broken(gc.ArgumentError, "integers", "[5, 2)")
def integers_of_nothing():
    return gc.random.integers(5, 2, (3,))  # <-


@broken(gc.ShapeError, "uniform", "(-3,)", "can't be negative")
def uniform_shape():
    return gc.random.uniform((-3,))  # <-


# --- placeholders and variables


@broken(gc.ShapeError, "placeholder", "'2*'", "not an expression", "write a name such as 'batch'")
def placeholder_shape():
    return gc.placeholder("x", shape=("2*",))  # <-


@broken(gc.DTypeError, "placeholder", "'flaot32'", "did you mean 'float32'?")
def placeholder_dtype():
    return gc.placeholder("x", shape=(3,), dtype="flaot32")  # <-


@broken(gc.ShapeError, "placeholder", "x is float32[3]", "float32[2]")
def placeholder_default():
    return gc.placeholder("x", shape=(3,), default=[1, 2])  # <-


@broken(gc.ArgumentError, "placeholder", "'/x'", "printable name")
def placeholder_name():
    return gc.placeholder("/x", shape=(3,))  # <-


@broken(gc.ShapeError, "'w' is float32[3]", "float32[4]", "w was made at")
def assign_shape():
    w = variable(3)
    return w.assign(np.zeros(4, "float32"))  # <-


@broken(gc.DTypeError, "'w' is float32[3]", "int64[3]", "gc.cast(value, 'float32')")
def assign_dtype():
    w = variable(3)
    return w.assign(gc.constant(np.zeros(3, "int64")))  # <-


@broken(gc.DTypeError, "'w' is float32[3]", "int64 values that don't fit float32 exactly", "w was made at")
def assign_lossy_values():
    w = variable(3)
    return w.assign([2**24 + 1, 2, 3])  # <-


@broken(gc.DTypeError, "'w' is float32[3]", "int64[4]", "shape [4] isn't [3]", "gc.cast(value, 'float32')")
def assign_dtype_and_shape():
    w = variable(3)
    return w.assign(gc.constant(np.zeros(4, "int64")))  # <-


@broken(gc.DTypeError, "'w' is float32[3]", "don't fit float32 exactly; shape [2] isn't [3]")
def assign_lossy_values_of_another_shape():
    w = variable(3)
    return w.assign(np.array([2**24 + 1, 0]))  # <-


@broken(gc.DTypeError, "'n' is int64", "float64; convert it: value.astype('int64')")
def add_a_fraction_to_an_integer():
    n = gc.Variable(0, name="n")
    return n.assign_add(0.5)  # <-


@broken(gc.ArgumentError, "'w'", "needs shape=")
def variable_without_shape():
    return gc.Variable(gc.nn.init.normal(), name="w")  # <-


@broken(gc.DTypeError, "'w' is int64[3]", "only float variables")
def variable_of_integers_trained():
    return gc.Variable(np.zeros(3, "int64"), name="w", trainable=True)  # <-


@broken(gc.ShapeError, "'w'", "float32[n]", "size must be known")
def variable_of_unknown_size():
    return gc.Variable(gc.ones(("n",)), name="w")  # <-


@broken(gc.StateError, "variable 'w'", "two different values", "one assign")
def conflicting_updates():
    w = variable(3)
    first = w.assign(w + 1)
    second = w.assign(w + 2)  # <-
    return gc.group(first, second)


# --- symbolic values used as if they were known


@broken(gc.ArgumentError, "<greater: bool[]>", "no truth value", "gc.where(condition, a, b)")
def truth():
    return 1 if x() > 0 else 0  # <-


@broken(gc.ShapeError, "<x: float32[n]>", "symbolic first dimension, n", "x.shape[0]")
def unpacking():
    a, b = x("n")  # <-
    return a, b


@broken(gc.ArgumentError, "<x: float32[]>", "no value to convert", "sess.run(x)")
def conversion():
    return float(x())  # <-


@broken(gc.ArgumentError, "<x: float32[3]>", "symbolic", "gc.tanh", "sess.run(x)")
def numpy_function():
    return np.tanh(x(3))  # <-


@broken(gc.ArgumentError, "np.mean", "<x: float32[3]>", "gc.mean", "sess.run(x)")
def numpy_reduction():
    return np.mean(x(3))  # <-


@broken(gc.ArgumentError, "<x: float32[3]>", "in place", "gc.where(mask, value, x)")
def item_assignment():
    x(3)[0] = 1.0  # <-


# --- own ops


@broken(gc.ArgumentError, "swish", "unexpected keyword argument 'bta'", "swish(x, *, beta=1.0)")
def composite_argument():
    @gc.composite
    def swish(x, *, beta=1.0):
        return x * gc.sigmoid(beta * x)

    return swish(x(3), bta=2.0)  # <-


@broken(gc.ArgumentError, "forgetful returned None", "inside forgetful(float32[3])", "return a tensor")
def composite_without_result():
    @gc.composite
    def forgetful(x):
        x * 2

    return forgetful(x(3))  # <-


@broken(gc.ShapeError, "matmul", "float32[3, 4] @ float32[3, 4]", "inside square(float32[3, 4])", "return square(a)")
def composite_body():
    @gc.composite
    def square(x):
        return x @ x  # <-

    a = x(3, 4)
    return square(a)


@broken(gc.ArgumentError, "clipped", "its output and a function of the cotangent", "return y, lambda dy: ...")
def custom_gradient_without_backward():
    @gc.custom_gradient
    def clipped(x):
        return x * 2

    return clipped(x(3))  # <-


@broken(gc.ArgumentError, "product", "1 cotangents for 2 inputs", "None where nothing flows")
def custom_gradient_count():
    @gc.custom_gradient
    def product(a, b):
        return a * b, lambda dy: dy * b

    w = variable(3)
    y = product(w, w + 1)  # <-
    return gc.gradients(y, [w])


@broken(gc.GradientError, "halved", "float32[]", "float32[3]", "dtype and shape of its input")
def custom_gradient_type():
    @gc.custom_gradient
    def halved(x):
        return x / 2, lambda dy: dy.sum()

    w = variable(3)
    y = halved(w)  # <-
    return gc.gradients(y, [w])


@broken(gc.GradientError, "twice", "2 cotangents for 1 inputs")
def composite_rule_count():
    def rule(g, y, x):
        return g, g

    twice = gc.composite(vjp=rule, name="twice")(lambda x: x * 2)
    w = variable(3)
    y = twice(w)  # <-
    return gc.gradients(y, [w])


@broken(gc.ShapeError, "matmul", "float32[3] @ float32[4, 3]", "in the gradient of twice", "y = twice(w)")
def composite_rule_body():
    def rule(g, y, x):
        return g @ np.ones((4, 3), "float32")  # <-

    twice = gc.composite(vjp=rule, name="twice")(lambda x: x * 2)
    w = variable(3)
    y = twice(w)
    return gc.gradients(y, [w])


# --- gradients


@broken(gc.GradientError, "gradients", "<x: int64[3]>", "float tensors", "cast the data")
def gradient_of_integers():
    y, w = x(3, dtype="int64"), variable(3)
    return gc.gradients(y, [w])  # <-


@broken(gc.ArgumentError, "gradients", "ys must be tensors of a graph", "float 1.5")
def gradient_of_a_value():
    return gc.gradients(1.5, [variable(3)])  # <-


@broken(gc.ArgumentError, "gradients", "1 ys but 2 grad_ys", "one vector is [np.array([...])]")
def gradient_weights():
    w = variable(3)
    return gc.gradients(w * w, [w], [1.0, 2.0])  # <-


@broken(gc.ArgumentError, "1 xs but 3 vs", "one vector is [np.array([...])]")
def jvp_vector():
    w = variable(3)
    return gc.jvp(w * w, [w], [1, 0, 0])  # <-


@broken(gc.ShapeError, "gradients", "<multiply: float32[3]>", "float32[4]")
def gradient_weight_shape():
    w = variable(3)
    return gc.gradients(w * w, [w], [np.ones(4, "float32")])  # <-


@broken(gc.ArgumentError, "gradients", "disconnected='nones'", "'none'")
def gradient_policy():
    w = variable(3)
    return gc.gradients(w * w, [w], disconnected="nones")  # <-


@broken(gc.ShapeError, "hessian", "<multiply: float32[3]>", "loss.mean()")
def hessian_of_a_vector():
    w = variable(3)
    return gc.hessian(w * w, w)  # <-


@broken(gc.ShapeError, "jacobian", "<multiply: float32[n]>", "use jvp or vjp")
def jacobian_of_unknown_size():
    y, w = x("n"), variable()
    return gc.jacobian(y * w, w)  # <-


@broken(gc.ArgumentError, "jvp", "1 xs but 2 vs")
def jvp_vectors():
    w = variable(3)
    return gc.jvp(w * w, [w], [w, w])  # <-


# --- modules


@broken(gc.ShapeError, "linear", "float32[2, 5]", "float32[3, 4]", "weight was made at")
def linear_layer():
    layer = gc.nn.Linear(4, 3)
    return layer(x(2, 5))  # <-


@broken(gc.ShapeError, "conv", "float32[2, 4, 8, 8]", "float32[8, 3, 3, 3]", "weight was made at")
def conv_layer():
    layer = gc.nn.Conv2d(3, 8, 3)
    return layer(x(2, 4, 8, 8))  # <-


@broken(gc.ShapeError, "max_pool", "kernel must fit", "in module features/1 (MaxPool2d)")
def layer_without_parameters():
    features = gc.nn.Sequential(gc.nn.ReLU(), gc.nn.MaxPool2d(5))
    model = gc.nn.Sequential({"features": features, "head": gc.nn.Flatten()})
    return model(x(1, 3, 4, 4))  # <-


@broken(gc.ShapeError, "BatchNorm2d", "4 dimensions", "float32[2, 4]")
def batch_norm_layer():
    layer = gc.nn.BatchNorm2d(3)
    return layer(x(2, 4))  # <-


@broken(gc.ShapeError, "linear", "float32[2, 3]", "float32[2, 4]", "2/weight was made at", "in module 2 (Linear)")
def sequential():
    model = gc.nn.Sequential(gc.nn.Linear(4, 3), gc.nn.ReLU(), gc.nn.Linear(4, 2))
    return model(x(2, 4))  # <-


@broken(gc.ShapeError, "matmul", "float32[2, 4] @ float32[3, 4]", "in module encoder (Encoder)")
def own_module():
    class Encoder(gc.nn.Module):
        def __init__(self):
            super().__init__(name="encoder")
            self.weight = gc.nn.Parameter(gc.nn.init.ones(), shape=(3, 4))

        def forward(self, x):
            return x @ self.weight  # <-

    return Encoder()(x(2, 4))


@broken(gc.ArgumentError, "Conv2d", "groups=2", "3 input and 8 output")
def conv_layer_groups():
    return gc.nn.Conv2d(3, 8, 3, groups=2)  # <-


@broken(gc.ArgumentError, "Bare defines no forward()")
def module_without_forward():
    class Bare(gc.nn.Module):
        pass

    return Bare()(x(3))  # <-


@broken(gc.StateError, "1 missing", "1 unexpected", "missing: weight; did you mean 'wieght'?")
def module_values():
    layer = gc.nn.Linear(2, 1, bias=False)
    return layer.load_state_dict({"wieght": np.ones((1, 2), "float32")})  # <-


# --- optimisers


@broken(gc.ArgumentError, "Adam", "lr must be at least 0", "got -1")
def adam_rate():
    return gc.optim.Adam(lr=-1)  # <-


@broken(gc.ArgumentError, "Adam: params must be variables", "got 0.001", "Adam(lr=0.001)")
def a_learning_rate_in_the_place_of_params():
    return gc.optim.Adam(1e-3)  # <-


@broken(gc.ShapeError, "minimize", "<multiply: float32[3]>", "loss.mean()")
def minimise_a_vector():
    w = variable(3)
    return gc.optim.SGD(lr=0.1).minimize(w * w)  # <-


@broken(gc.GradientError, "minimize", "no gradient of <x: float32[]> reaches a trainable variable")
def minimise_nothing():
    return gc.optim.SGD(lr=0.1).minimize(x())  # <-


@broken(gc.GradientError, "minimize", "depends on 'w'", "trainable = True")
def minimise_a_frozen_variable():
    w = variable(3)
    w.trainable = False
    return gc.optim.SGD(lr=0.1).minimize(w.sum())  # <-


@broken(gc.GradientError, "'w'", "argmax", "it is a position", "gc.argmax(w)")
def minimise_a_position():
    w = variable(3)
    loss = gc.cast(gc.argmax(w), "float32")  # <-
    return gc.optim.SGD(lr=0.1).minimize(loss)


# --- graphs and names


@broken(gc.GraphError, "add", "different graphs, 'left' and 'right'", "a was made at", "b was made at", "with graph:")
def mixed_graphs():
    with gc.Graph("left"):
        a = x(3, name="a")
    with gc.Graph("right"):
        b = x(3, name="b")
    return a + b  # <-


@broken(gc.GraphError, "Linear", "'x'", "graph 'right'", "graph 'left'", "a module lives in one graph")
def module_in_another_graph():
    with gc.Graph("left"):
        layer = gc.nn.Linear(3, 1)
        layer(x(2, 3))
    with gc.Graph("right"):
        return layer(x(2, 3))  # <-


@broken(gc.GraphError, "'wieght'", "did you mean 'weight'?")
def unknown_name():
    weight = variable(3, name="weight")
    return weight.graph["wieght"]  # <-


@broken(gc.ArgumentError, "scope", "''")
def empty_scope():
    with gc.scope(""):  # <-
        pass


@broken.each
def test_message(program):
    check(program)
