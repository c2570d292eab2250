"""Every store by name. One line each."""

from __future__ import annotations
