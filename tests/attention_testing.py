"""What attention and its gradient are, by their definitions, for the tests of the targets that compute them whole."""

from __future__ import annotations

from typing import Any

import numpy as np


def attended(q: Any, k: Any, v: Any, mask: Any, is_causal: bool) -> Any:
    """Attention of float64, its scores divided by the root of the width; zeros where a query sees no key."""
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(max(q.shape[-1], 1))
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(np.float64)
    return shares(scores) @ v


def shares(scores: Any) -> Any:
    """The softmax along the last axis; zeros where all elements are -inf."""
    top = scores.max(-1, keepdims=True)
    found = np.exp(scores - np.where(np.isinf(top), 0, top))
    return found / np.maximum(found.sum(-1, keepdims=True), 1e-300)


def cotangents(g: Any, q: Any, k: Any, v: Any, seen: Any, scale: float) -> list[Any]:
    """Those of q, k and v for the cotangent g, by the chain rule, where `seen` says which keys a query sees."""
    found = shares(np.where(seen, q @ k.swapaxes(-1, -2) * scale, -np.inf))
    to_shares = g @ v.swapaxes(-1, -2)
    to_scores = found * (to_shares - (to_shares * found).sum(-1, keepdims=True)) * scale
    return [to_scores @ k, to_scores.swapaxes(-1, -2) @ q, found.swapaxes(-1, -2) @ g]
