"""The address with its token, where no terminal shows it to whoever started the server: in a file of the account's own.

Output that is kept, as a journal is, is read by others than those who may see the screen.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from warpline_proto.errors import ConfigError
from warpline_tui.console import history


def file_in(environment: Mapping[str, str], port: int) -> Path:
    """Where it lies: in the runtime directory of the service, else of the session, else beside other state of the user."""
    given = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        folder = Path(given)
    elif environment.get("XDG_RUNTIME_DIR"):
        folder = Path(environment["XDG_RUNTIME_DIR"]) / "warpline"
    else:
        folder = history.file_in(environment).parent
    return folder / f"serve-{port}"


@contextlib.contextmanager
def kept(file: Path, address: str) -> Iterator[None]:
    """The address in its file, for nobody else to read, as long as it is served; ConfigError if it cannot be written."""
    try:
        _write(file, address)
    except OSError as error:
        hint = "RuntimeDirectory= of a unit or XDG_RUNTIME_DIR says where else; a terminal shows the address itself"
        raise ConfigError(f"the address with its token cannot be kept in {file}: {error.strerror}", hint) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the token in it opens nothing any more
            file.unlink()


def _write(file: Path, address: str) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, new = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # of mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(f"{address}\n")
        os.replace(new, file)
    except OSError:
        os.unlink(new)
        raise
