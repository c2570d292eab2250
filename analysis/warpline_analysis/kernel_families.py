"""What kind of work a kernel does, as far as its name says: what bounds it tells what may be slow about a GPU."""

from __future__ import annotations

from typing import Final

ARITHMETIC: Final = frozenset({"matrix product", "attention", "convolution"})
"""Bound by the clock of the multiprocessors."""
MEMORY: Final = frozenset({"elementwise", "normalisation", "optimizer", "copy", "embedding"})
"""Bound by the bandwidth of device memory."""
OTHER: Final = "other"
_WORDS: Final = (
    ("attention", ("flash", "fmha", "attention", "attn")),
    ("optimizer", ("adam", "multi_tensor", "multitensor", "sgd", "optim")),
    ("normalisation", ("norm", "softmax", "cross_entropy", "nll_loss")),
    ("embedding", ("embedding", "index_select", "gather", "scatter", "indexing")),
    ("convolution", ("conv", "wgrad2d", "dgrad2d")),
    ("matrix product", ("gemm", "gemv", "cutlass", "xmma", "matmul", "nvjet", "s16816", "s884", "cublas", "grouped_mm")),
    ("copy", ("memcpy", "memset", "catarraybatched", "transpose", "copy", "fill")),
    ("elementwise", ("elementwise", "vectorized", "triton_poi", "triton_per", "triton_red", "reduce", "dropout", "gelu", "silu",
                     "bias", "rope", "rotary")),
)  # fmt: skip
"""Looked for in this order: a fused name says first what dominates it."""


def family(name: str, category: str | None = None) -> str:
    """Family of a kernel by its name, `other` where it says nothing."""
    if category in ("memcpy", "memset"):
        return "copy"
    lower = name.lower()
    return next((kind for kind, words in _WORDS if any(word in lower for word in words)), OTHER)
