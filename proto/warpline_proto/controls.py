"""Characters that a terminal obeys instead of showing them: whoever prints a name from outside takes these out of it."""

from __future__ import annotations

from typing import Final

CONTROLS: Final = (
    (0x00, 0x1F),  # escape sequences begin with one of these
    (0x7F, 0x9F),  # ... or with one of these
    (0x2028, 0x202E),  # lines, and from here on the direction of what follows
    (0x2066, 0x2069),
)
"""From and to."""
CONTROLS_CLASS: Final = "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in CONTROLS)
"""What stands for them between the brackets of a regular expression."""
