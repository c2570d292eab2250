"""Peers that warpline is measured beside, each in a cached virtual environment of its own below `.bench`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".bench"
PEERS: Final[Mapping[str, tuple[str, ...]]] = {
    "hta": ("HolisticTraceAnalysis==0.5.0", "pandas<3"),
    "rbeast": ("Rbeast==0.1.25",),
    "nvitop-exporter": ("nvitop-exporter==1.7.2",),
    "gcm": ("gpucm==0.0.2",),
    "pandas": ("pandas>=2,<4", "pyarrow>=26"),
}


def python_of(peer: str) -> Path:
    """The interpreter of the peer's environment, made at the first call; CalledProcessError if it cannot be installed."""
    folder = CACHE / peer
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS[peer]], check=True)
        ready.write_text("\n".join(PEERS[peer]))
    return python
