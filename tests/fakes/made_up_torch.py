"""A package called `torch` with just what the hook attaches to, imported as the real one is; and a program that trains."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

TORCH: Final = {
    "torch/__init__.py": """
        __version__ = "9.9.0"
        from . import cuda, autograd, compiler, distributed, optim, utils
    """,
    "torch/compiler.py": """
        compiling = False
        def is_compiling(): return compiling
    """,
    "torch/cuda.py": """
        def is_initialized(): return False
    """,
    "torch/autograd/__init__.py": """
        def backward(work, *more): return work()
    """,
    "torch/distributed/__init__.py": """
        ranks = None
        def is_available(): return True
        def is_initialized(): return ranks is not None
        def get_rank(): return ranks[0]
        def get_world_size(): return ranks[1]
        from . import distributed_c10d
    """,
    "torch/distributed/distributed_c10d.py": """
        class Group:
            def __init__(self, group_desc): self.group_desc = group_desc
        class World:
            pg_group_ranks = {}
            pg_names = {}
        _world = World()
    """,
    "torch/optim/__init__.py": "from .optimizer import SGD",
    "torch/optim/optimizer.py": """
        import os
        before, after = [], []
        register_optimizer_step_pre_hook = before.append
        register_optimizer_step_post_hook = after.append
        class Device: type = os.environ.get("MADE_UP_DEVICE", "cpu")
        class Parameter: device = Device()
        class SGD:
            def __init__(self): self.param_groups = [{"params": [Parameter()]}]
            def step(self):
                for hook in before: hook(self, (), {})
                for hook in after: hook(self, (), {})
    """,
    "torch/utils/__init__.py": "from . import data",
    "torch/utils/data/__init__.py": "from .dataloader import DataLoader",
    "torch/utils/data/dataloader.py": """
        class _BaseDataLoaderIter:
            def __init__(self, items): self.items = iter(items)
            def __iter__(self): return self
            def __next__(self): return next(self.items)
        class _SingleProcessDataLoaderIter(_BaseDataLoaderIter): pass
        class DataLoader:
            def __init__(self, items): self.items = items
            def __iter__(self): return _SingleProcessDataLoaderIter(self.items)
    """,
}
TRAINING: Final = """
import torch, torch.utils.data
optimizer = torch.optim.SGD()
for batch in torch.utils.data.DataLoader(range({steps})):
    torch.autograd.backward(lambda: sum(range(20_000)))
    optimizer.step()
"""


def write(folder: Path) -> Path:
    """The package below `folder`, which is then an import path."""
    for name, text in TORCH.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
    return folder
