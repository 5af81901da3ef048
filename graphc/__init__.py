"""graphc: a compiler for symbolic graphs of tensors."""

__version__ = "0.1.0.dev0"
