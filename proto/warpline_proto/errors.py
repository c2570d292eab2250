"""Every error that warpline raises on purpose, each with a hint that says what to do now.

WarplineError
 ├── ConfigError      a setting or an argument that cannot be used (exit 64)
 ├── SchemaError      rows that do not fit their table
 ├── WireError        a frame that cannot be read
 ├── Refused          an input that is not read, with the reason
 │    └── Reference   an input that holds somebody's published answer: set aside, never read
 ├── SourceError      a source that cannot work now
 │    ├── Unsupported   the machine does not offer it
 │    ├── Denied        the machine offers it, but not to us
 │    └── Busy          somebody else holds it
 ├── StoreError       the store cannot be opened or written
 └── QueryError       SQL that was refused, failed or ran past its bound
"""

from __future__ import annotations


class WarplineError(Exception):
    """Base of all. `message` says what happened, `hint` what the user should do now (may be empty)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(WarplineError):
    """A setting or an argument that cannot be used."""


class SchemaError(WarplineError):
    """Rows that do not fit their table."""


class WireError(WarplineError):
    """A frame that cannot be read."""


class Refused(WarplineError):
    """An input that is not read; the message is the reason shown to the user."""


class Reference(Refused):
    """An input that holds somebody's published answer; set aside unread."""


class SourceError(WarplineError):
    """A source that cannot work now."""


class Unsupported(SourceError):
    """The machine does not offer this."""


class Denied(SourceError):
    """The machine offers this, but not to this user."""


class Busy(SourceError):
    """Somebody else holds this; they win."""


class StoreError(WarplineError):
    """The store cannot be opened or written."""


class QueryError(WarplineError):
    """SQL that was refused, failed or ran past its bound."""
