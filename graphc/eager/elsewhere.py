"""Where to find what PyTorch has under another name: the remedies of errors about names that don't exist."""

from __future__ import annotations

_CAST = "t.astype('float32') converts"
_DEVICE = "values lie in main memory, and ge.set_device(...) chooses what computes"
_COMPARE = "operators compare elements: t == u, t < u"
_HOST = "np.{name}(t.numpy()) computes it of the value"
_DTYPES = "dtypes are given by name: dtype='float32'"
_DATA = "ge.tensor(data) takes lists and arrays"
_IN_PLACE = "leaves have t.assign(value)"

# Of tensors.
METHOD = {
    **dict.fromkeys(("float", "double", "half", "bfloat16", "int", "long", "bool", "type_as"), _CAST),
    **dict.fromkeys(("cuda", "device", "is_cuda"), _DEVICE),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), _COMPARE),
    **{name: _HOST.format(name=name) for name in ("unique", "nonzero", "histogram", "median", "quantile")},
    **{name: f"gc.{name}(t)" for name in ("relu", "gelu", "silu", "logsumexp", "outer", "isnan", "isinf", "isfinite")},
    "to": f"{_CAST}; {_DEVICE}",
    "dim": "t.ndim",
    "numel": "t.size is the number of elements",
    "nelement": "t.size is the number of elements",
    "t": "t.T",
    "mm": "t @ u",
    "bmm": "t @ u",
    "mv": "t @ u",
    "mul": "t * u",
    "div": "t / u",
    "sub": "t - u",
    "neg": "-t",
    "pow": "t ** k",
    "clamp": "t.clip(min, max)",
    "norm": "gc.sqrt((t * t).sum())",
    "expand": "gc.broadcast_to(t, shape)",
    "contiguous": "every tensor lies in memory in order",
    "masked_fill": "gc.where(mask, value, t)",
    "where": "gc.where(condition, t, other)",
    "gather": "t.take_along_axis(indices, axis)",
    "index_select": "t.take(indices, axis)",
    "new_zeros": "ge.zeros(shape)",
    "new_ones": "ge.ones(shape)",
    "retain_grad": "t.register_hook(look) sees its gradient, and ge.grad(loss, t) returns it",
    "share_memory_": "tensors are for threads of one process",
}

# Of tensors: what changes them in place in PyTorch.
IN_PLACE = {
    "zero_": "t.grad = None lets a gradient be collected anew; ge.zeros_like(t) makes zeros",
    "detach_": "t.detach() makes a new one",
    "clamp_": f"t.clip(min, max) makes a new one; {_IN_PLACE}",
    "copy_": _IN_PLACE,
    "fill_": f"ge.full(shape, value) makes a new one; {_IN_PLACE}",
    "uniform_": f"ge.random.uniform(shape) makes a new one; {_IN_PLACE}",
    "normal_": f"ge.random.normal(shape) makes a new one; {_IN_PLACE}",
    "scatter_": "gc.scatter_add(...) makes a new one",
}

# Of `graphc.eager`.
ROOM = {
    **dict.fromkeys(("float16", "bfloat16", "float32", "float64", "float", "double"), _DTYPES),
    **dict.fromkeys(("int8", "uint8", "int32", "int64", "long", "bool"), _DTYPES),
    **dict.fromkeys(("as_tensor", "from_numpy", "FloatTensor", "LongTensor", "asarray"), _DATA),
    **dict.fromkeys(("cuda", "device", "get_default_device"), _DEVICE),
    "randn": "ge.random.normal(shape)",
    "rand": "ge.random.uniform(shape)",
    "randint": "ge.random.integers(shape, low, high)",
    "randn_like": "ge.random.normal(t.shape)",
    "rand_like": "ge.random.uniform(t.shape)",
    "randperm": "ge.tensor(np.random.permutation(n))",
    "empty": "ge.zeros(shape)",
    "cat": "ge.concat(tensors, axis)",
    "mm": "t @ u",
    "bmm": "t @ u",
    "clamp": "ge.clip(t, min, max)",
    "inference_mode": "ge.no_grad()",
    "autograd": "ge.grad and ge.Function",
    "nn": "gc.nn has the modules, and ge.module(m) makes the eager twin of one",
    "functional": "gc.relu(t) and its like take eager tensors, and so do those of gc.losses",
    "losses": "gc.losses takes eager tensors",
    "optim": "ge.optimizer(gc.optim.SGD(lr=0.1), params)",
    "allclose": "np.allclose(t.numpy(), u.numpy())",
    "is_tensor": "isinstance(x, ge.Tensor)",
    "save": "np.savez(file, **{name: t.numpy() for name, t in model.state_dict().items()})",
    "load": "model.load_state_dict(np.load(file))",
}
