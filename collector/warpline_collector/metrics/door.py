"""Who may read metrics from another machine: whoever shows a certificate of a viewer or an operator."""

from __future__ import annotations

import asyncio
import ssl

from warpline_proto.errors import ConfigError

from ..admission import Admission, named
from ..callers import Role
from ..certificates import Certificates

METRICS = "read metrics"


class HttpsDoor:
    """The TLS of the endpoint, and what it thinks of a caller."""

    def __init__(self, certificates: Certificates, admission: Admission) -> None:
        self._certificates = certificates
        self._admission = admission

    def context(self) -> ssl.SSLContext:
        """For the server."""
        return self._certificates.for_streams()

    def refused(self, writer: asyncio.StreamWriter) -> str:
        """Why the caller is told nothing; empty where it may read."""
        held = writer.get_extra_info("peercert") or {}
        uris = tuple(value for kind, value in held.get("subjectAltName", ()) if kind == "URI")
        try:
            caller = named(uris)
        except ConfigError as error:
            self._admission.refuse(None, "certificate", METRICS, str(error), str(writer.get_extra_info("peername")[0]))
            return str(error)
        if caller.role is Role.AGENT:
            why = f"agent {caller.name} may not {METRICS}: viewer or operator may"
            self._admission.refuse(caller, "role", METRICS, why)
            return why
        return ""
