"""`warpline run -- COMMAND...`: the command itself, with the hook switched on for it and all that it starts.

The environment is all that is changed: the command takes this process over, so that signals, output and exit code are its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import time

EXIT_NOT_FOUND = 127
"""As a shell says that there is no such command."""
EXIT_NOT_RUN = 126
"""As a shell says that a command cannot be executed."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags, then the command."""
    parser.add_argument("--job", metavar="NAME", help="name of the job, where the launcher's own is not wanted")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND...", help="for example torchrun train.py"
    )
    parser.epilog = "There is no --json: all output is the command's own."


def run(options: argparse.Namespace) -> int:
    """Becomes the command; returns only where that cannot be."""
    from warpline_cli.streams import tell
    from warpline_hook.environment import switched_on
    from warpline_hook.launch import environment_for
    from warpline_hook.library import places_taken

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        from warpline_proto.errors import ConfigError

        raise ConfigError("there is no command to run", "warpline run -- torchrun --nproc-per-node 8 train.py")
    environment = environment_for(os.environ, time.time_ns(), options.job)
    for name, what in places_taken(os.environ).items() if switched_on(environment) else ():
        tell(f"warpline run: {name} names {os.environ[name]}, which keeps its place: {what} are not captured")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by this interpreter, and what is ignored is inherited
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)
    except FileNotFoundError:
        tell(f"warpline run: there is no command {command[0]!r}")
        return EXIT_NOT_FOUND
    except OSError as error:
        tell(f"warpline run: {command[0]} cannot be executed: {error.strerror}")
        return EXIT_NOT_RUN
