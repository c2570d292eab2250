"""Takes secrets out of text that must be passed on: access tokens, keys, passwords, authorisation headers, private keys.

A source that reads foreign files takes only the members it knows by name; text it passes on all the same (kernel names,
annotations, log lines) goes through `scrub` first. What is found is replaced by MASK, so that one sees where it stood. The
patterns are bounded, so that no text makes them slow.
"""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "[secret]"

_WORD: Final = (
    r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|API[-_]?KEY|ACCESS[-_]?KEY|PRIVATE[-_]?KEY|AUTH[-_]?KEY)"
)
_VALUE: Final = r"""(?:\\?"(?:[^"\\\n]|\\[^"])*(?:\\?")?|'[^'\n]*'?|[^\s,;&"'\\}\]]+)"""
# NAME_TOKEN=value, "name_token": "value", --api-key value; never C++ scopes (`token::`) or comparisons (`token==`).
_ASSIGNED: Final = re.compile(rf"""({_WORD}\\?["']?\s*[:=](?![:=])\s*)(?!\[secret\]){_VALUE}""", re.IGNORECASE)
_FLAG: Final = re.compile(rf"((?<!-)--[\w-]{{0,64}}?{_WORD}\s+){_VALUE}", re.IGNORECASE)
_HEADER: Final = re.compile(
    r"""(\b(?:proxy-)?authorization\\?["']?\s*[:=]\s*\\?["']?)(?:(?:bearer|basic|token|digest|negotiate)\s+)?[^\s"',;\\]+""",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"(\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_URL: Final = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@:\"']*:[^\s/@\"']+@", re.IGNORECASE)
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
_SHAPES: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"  # GitHub
    r"|glpat-[A-Za-z0-9_-]{16,}"  # GitLab
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|sk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|nvapi-[A-Za-z0-9_-]{20,}"  # NVIDIA
    r"|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}"  # Google
    r"|pypi-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{30,}"  # registries
    r"|eyJ[A-Za-z0-9_-]{8,2048}\.[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]*"  # JSON web tokens
    r")"
)
_HINT: Final = re.compile(
    rf"{_WORD}|authorization|bearer|://[^\s/]*@|PRIVATE KEY"
    r"|hf_|A[KSBC][IC]A|gh[pousr]_|github_pat_|glpat-|xox|sk-|nvapi-|AIza|ya29|pypi-|npm_|eyJ",
    re.IGNORECASE,
)


def scrub(text: str) -> str:
    """`text` with every secret that has a known shape or a telling name replaced by MASK; the rest stays as it is."""
    if not _HINT.search(text):
        return text
    text = _PRIVATE_KEY.sub(MASK, text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    text = _URL.sub(rf"\1{MASK}@", text)
    text = _SHAPES.sub(MASK, text)
    text = _FLAG.sub(rf"\1{MASK}", text)
    return _ASSIGNED.sub(rf"\1{MASK}", text)
