"""Asks PyTorch's flight recorder in a training process for a dump, through the pipe that PyTorch has made for it.

With TORCH_NCCL_DEBUG_INFO_PIPE_FILE set, the first process group of NCCL makes a FIFO NAME<rank>.pipe and looks into it once a
second; whatever is written there has a dump written in the background, to NAME<rank> of TORCH_FR_DUMP_TEMP_FILE. Training does
not stop. The paths are what the process's own environment says, and are opened as that process sees them. It may say what it
likes: no link is followed on the way, and only a FIFO, and then a regular file of bounded size, is used, that belongs to the
user of the process.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from warpline_hook.flight_recorder import BUFFERS, FILES, PIPE, PREFIX
from warpline_proto.errors import Busy, Denied, Refused, Unsupported

from .parsers.flight_dump import BYTES_MAX
from .source import Input, memory_input

ENVIRONMENT_BYTES_MAX: Final = 1024 * 1024
PATH_CHARS_MAX: Final = 1024
RANK_VARIABLES: Final = ("RANK",)
"""By which PyTorch's launchers, and nearly everybody who calls init_process_group, tell the rank that the files are named by."""
SWEPT_MAX: Final = 1024
SWEPT_SECONDS: Final = 600.0
"""What is younger is left: between making a pipe and opening it a process has it closed."""
_WORD: Final = b"warpline\n"


@dataclass(frozen=True)
class DumpFiles:
    """Where one process has its pipe, and where it writes its dump; both as the process sees them."""

    pid: int
    pipe: str
    dump: str

    @property
    def ours(self) -> bool:
        """Whether the launcher of this project named the dump, so that it may be taken away."""
        return os.path.basename(self.dump).startswith(PREFIX)


def dump_files(pid: int, rank: int | None, proc: str = "/proc") -> DumpFiles:
    """Of one process. Denied where its environment may not be read, Unsupported where it asks for no pipe."""
    told = _environment(pid, proc)
    stem = told.get(PIPE)
    if not stem:
        raise Unsupported(
            f"its flight recorder has no pipe: {PIPE} was not set when it started", "start it with warpline run"
        )
    if not any(told.get(name, "0").isdecimal() and int(told[name]) > 0 for name in BUFFERS if name in told):
        raise Unsupported(f"its flight recorder is off: {BUFFERS[0]} is not set", "start it with warpline run")
    number = next((int(told[name]) for name in RANK_VARIABLES if told.get(name, "").isdecimal()), rank)
    prefix = next((told[name] for name in FILES if told.get(name)), None)
    if number is None:
        raise Unsupported("its rank is not known, by which the pipe is named")
    if prefix is None:
        raise Unsupported(f"where it writes dumps is not known: {FILES[0]} was not set when it started")
    return DumpFiles(pid, f"{stem}{number}.pipe", f"{prefix}{number}")


def ask(files: DumpFiles, proc: str = "/proc") -> int | None:
    """Have the dump written; which file lay in its place before (its modification in ns), None for none."""
    before = _modified(files, proc)
    with _opened(files.pid, files.pipe, os.O_WRONLY, proc) as descriptor:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise Refused(f"{files.pipe} is no pipe")
        try:
            os.write(descriptor, _WORD)
        except BlockingIOError:
            raise Busy(f"the pipe {files.pipe} is full: the process does not look into it") from None
        except OSError as error:
            raise Refused(f"{files.pipe} cannot be written to: {error.strerror}") from None
    return before


def fetch(files: DumpFiles, before: int | None, proc: str = "/proc") -> tuple[Input, int] | None:
    """The dump that was asked for and when it was written; None while it is not there, or is being written."""
    modified = _modified(files, proc)
    if modified is None or modified == before:
        return None
    with _opened(files.pid, files.dump, os.O_RDONLY, proc) as descriptor:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise Refused(f"{files.dump} is no regular file")
        if about.st_size > BYTES_MAX:
            raise Refused(f"{files.dump} holds more than {BYTES_MAX:,} bytes")
        content = _content(descriptor, about.st_size)
    whole = content.endswith((b".", b"}")) and _modified(files, proc) == modified
    return (memory_input(files.dump, content), modified) if whole else None


def take_away(files: DumpFiles, proc: str = "/proc") -> None:
    """Remove a dump that was read, where the launcher of this project gave it its name."""
    folder, _, name = files.dump.rpartition("/")
    if not files.ours:
        return
    with suppress(OSError, Denied, Refused, Unsupported), _folder(files.pid, folder, proc) as descriptor:
        about = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if stat.S_ISREG(about.st_mode) and about.st_uid == _user(files.pid, proc):
            os.unlink(name, dir_fd=descriptor)


def sweep(folder: str, now_ns: int) -> None:
    """Remove pipes in a folder of this machine that launches of this project left there and nobody reads any more."""
    with suppress(OSError):
        names = [name for name in os.listdir(folder) if name.startswith(PREFIX)]
        for name in names[:SWEPT_MAX]:
            _sweep_one(os.path.join(folder, name), now_ns)


def _sweep_one(path: str, now_ns: int) -> None:
    with suppress(OSError):
        about = os.stat(path, follow_symlinks=False)
        old = now_ns / 1e9 - about.st_mtime > SWEPT_SECONDS
        if not old or os.geteuid() not in (0, about.st_uid):
            return
        if stat.S_ISFIFO(about.st_mode) and not _has_reader(path):
            os.unlink(path)


def _has_reader(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _environment(pid: int, proc: str) -> Mapping[str, str]:
    """The variables that matter, as they were when the process started."""
    try:
        with open(f"{proc}/{pid}/environ", "rb") as stream:
            content = stream.read(ENVIRONMENT_BYTES_MAX)
    except PermissionError:
        raise Denied("its environment may not be read", "run the agent as root or as the user of the job") from None
    except OSError as error:
        raise Unsupported(f"its environment cannot be read: {error.strerror}") from None
    wanted = {PIPE, *BUFFERS, *FILES, *RANK_VARIABLES}
    pairs = (entry.decode("utf-8", "replace").partition("=") for entry in content.split(b"\0"))
    return {name: value[:PATH_CHARS_MAX] for name, _, value in pairs if name in wanted}


def _modified(files: DumpFiles, proc: str) -> int | None:
    folder, _, name = files.dump.rpartition("/")
    try:
        with _folder(files.pid, folder, proc) as descriptor:
            return os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mtime_ns
    except (OSError, Refused):
        return None


def _content(descriptor: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(descriptor, min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


@contextmanager
def _opened(pid: int, path: str, flags: int, proc: str) -> Iterator[int]:
    """A file as the process sees it; never through a link, never waiting, and only its own user's."""
    folder, _, name = path.rpartition("/")
    with _folder(pid, folder, proc) as within:
        descriptor = _open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, within, path)
    try:
        if os.fstat(descriptor).st_uid != _user(pid, proc):
            raise Refused(f"{path} belongs to another user than the process")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _folder(pid: int, path: str, proc: str) -> Iterator[int]:
    parts = [part for part in path.split("/") if part]
    if not path.startswith("/") or ".." in parts:
        raise Refused(f"{path} is no absolute path")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = _open(f"{proc}/{pid}/root", flags, None, path)
    try:
        for part in parts:
            inner = _open(part, flags | os.O_NOFOLLOW, descriptor, path)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _open(name: str, flags: int, folder: int | None, path: str) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        raise Unsupported(
            f"there is no {path}: no process group of NCCL has made it, or its PyTorch is too old"
        ) from None
    except PermissionError:
        hint = "run the agent as root or as the user of the job"
        raise Denied(f"{path} of the process may not be opened", hint) from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise Unsupported(f"nobody reads the pipe {path}: its process group is gone") from None
        raise Refused(f"{path} cannot be opened: {error.strerror}") from None


def _user(pid: int, proc: str) -> int:
    try:
        return os.stat(f"{proc}/{pid}").st_uid
    except OSError as error:
        raise Unsupported(f"process {pid} is gone: {error.strerror}") from None
