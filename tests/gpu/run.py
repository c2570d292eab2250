"""Measures on a GPU what nothing else can show; one command for whoever has one for half an hour.

    python tests/gpu/run.py [--only NAME,NAME] [--dry] [--out FOLDER] [--again]

Runs the scripts of this folder one after the other, each a process of its own of nine minutes at most, with the Python that has
torch (WARPLINE_TEST_TORCH, else the running one). Results are gathered in FOLDER/gpu.json and FOLDER/gpu.md, which are written
after each script: a run that was cut goes on with those that are missing, unless --again. Nothing of the GPU is ever set. What is
not there (torch, NVML, a second GPU) is named, and the rest is measured. --dry runs the same code against the fakes in a minute.
Exit 0 if everything was measured, 75 if something was missing, 1 if a script failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

SCRIPTS: Final = ("power_floor", "nvml_latency", "nccl_real", "user_profiler", "toggling", "overhead", "graph_soak")
"""Short ones first: whoever is interrupted has most of them."""
SECONDS_MAX: Final = 545
HERE: Final = Path(__file__).parent
MISSING: Final = 75
"""EX_TEMPFAIL: a script found something missing."""


def one(name: str, folder: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Run one script; its figures, or why there are none."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(folder), *arguments]
    begun = time.monotonic()
    try:
        code = subprocess.run(command, timeout=SECONDS_MAX, stdout=subprocess.DEVNULL).returncode
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {SECONDS_MAX} s"}
    path = folder / f"{name}.json"
    if not path.exists():
        return {"failed": f"ended with code {code} after {time.monotonic() - begun:.0f} s, see its errors above"}
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures | {"text": (folder / f"{name}.md").read_text()}


def state(figures: dict[str, Any]) -> str:
    """In one word or sentence."""
    return str(figures.get("failed") or figures.get("missing") or "measured")


def keep(out: Path, results: dict[str, dict[str, Any]]) -> None:
    """Write both files whole."""
    sections = [
        f"### {name}\n\n{results[name].get('text', state(results[name])).strip()}"
        for name in SCRIPTS
        if name in results
    ]
    for file, text in (("gpu.json", json.dumps(results, indent=1)), ("gpu.md", "\n\n".join(sections))):
        fresh = out / f"{file}.new"
        fresh.write_text(text.rstrip() + "\n")
        fresh.replace(out / file)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SCRIPTS), help="names, separated by commas")
    parser.add_argument("--dry", action="store_true", help="against the fakes: no figures")
    parser.add_argument("--again", action="store_true", help="measure also what the folder holds already")
    parser.add_argument("--out", type=Path, default=Path("gpu-figures"))
    parser.add_argument("--library", help="the native library, where not the installed one")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(SCRIPTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}: {', '.join(SCRIPTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "gpu.json"
    results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    arguments = [*(["--dry"] if options.dry else []), *(["--library", options.library] if options.library else [])]
    for name in wanted:
        known = results.get(name, {"failed": "not run"})
        if state(known) == "measured" and known["dry"] == options.dry and not options.again:
            print(f"{name}: known already", file=sys.stderr)
            continue
        print(f"{name}: begins", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results[name] = one(name, Path(folder), arguments)
        keep(options.out, results)
        print(f"{name}: {state(results[name])}", file=sys.stderr, flush=True)
    found = [results[name] for name in wanted]
    sys.exit(
        1 if any("failed" in each for each in found) else MISSING if any("missing" in each for each in found) else 0
    )


if __name__ == "__main__":
    main()
