"""Who may come to a served screen, and what as.

On loopback whoever knows the token, which the address that is told has in it: other accounts of the machine and pages of
other sites in the same browser do not. Over TLS whoever shows a certificate of the fleet's authority that names a viewer or an
operator. What is asked of the collector is asked with the rights of the serving account, so nobody comes who has fewer.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from multidict import CIMultiDictProxy

from warpline_proto.certificate import identity

VIEWER: Final = "viewer"
OPERATOR: Final = "operator"
ADMITTED: Final = {VIEWER: (VIEWER, OPERATOR), OPERATOR: (OPERATOR,)}
"""By the rights of the serving account."""


@dataclass(frozen=True)
class Door:
    """`secure`: over TLS, which has asked for a certificate already. `rights` are those of the serving account, `operator` says
    whether operators may do more than look."""

    secure: bool
    rights: str = VIEWER
    operator: bool = False
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def admit(self, request: web.Request) -> str:
        """Viewer or operator; HTTPForbidden for everybody else, whoever sent them here."""
        scheme = "https" if self.secure else "http"
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"{scheme}://{request.host}":
            raise web.HTTPForbidden(text=f"a page of {origin!a} may not open this screen\n")
        return self._certified(request) if self.secure else self._local(request)

    def _local(self, request: web.Request) -> str:
        """A name that a stranger's DNS server gave loopback is none of ours."""
        name = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
        if name != "localhost" and not _is_loopback(name):
            raise web.HTTPForbidden(text="this screen is served on loopback alone\n")
        shown = request.query.get("token") or request.cookies.get(self.cookie(request.headers)) or ""
        if not hmac.compare_digest(shown.encode(errors="replace"), self.token.encode()):
            raise web.HTTPForbidden(
                text="open the address with the token in it, which `warpline serve` printed or names the file of\n"
            )
        return OPERATOR if self.operator else VIEWER

    def cookie(self, headers: CIMultiDictProxy[str]) -> str:
        """Its name: a browser sends the cookies of all ports of a machine to each."""
        return f"warpline-{headers.get('Host', '').rpartition(':')[2]}"

    def _certified(self, request: web.Request) -> str:
        told = request.transport.get_extra_info("peercert") if request.transport else None
        uris = tuple(value for kind, value in (told or {}).get("subjectAltName", ()) if kind == "URI")
        role, name = identity(uris) or ("", "nobody")
        if role not in ADMITTED[self.rights]:
            wanted = " or ".join(ADMITTED[self.rights])
            raise web.HTTPForbidden(
                text=f"this screen is for the certificate of a {wanted}; yours is of {role} {name}\n"
            )
        return OPERATOR if role == OPERATOR and self.operator else VIEWER


def _is_loopback(host: str) -> bool:
    """Whether a host is an address of loopback, written as such."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
