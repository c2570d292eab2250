"""The style sheet: parsed once for each theme."""

from __future__ import annotations

from textual.css.stylesheet import Stylesheet


class Sheet(Stylesheet):
    """Parses what is new to it. Textual's own parses everything again whenever a screen opens, and three times at the start."""

    def __init__(self, variables: dict[str, str]) -> None:
        super().__init__(variables=variables)
        self._told = variables.copy()

    def set_variables(self, variables: dict[str, str]) -> None:
        """What was parsed stays as long as the variables, which a theme sets, are the same."""
        if variables != self._told:
            self._told = variables.copy()
            super().set_variables(variables)

    def reparse(self) -> None:
        """Parse what was not."""
        self.parse()
