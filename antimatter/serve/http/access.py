"""Who may ask: the rules for Host, Origin and token, and what a browser may do with an answer.

A page of any web site can make a visitor's browser send requests to 127.0.0.1, and by DNS rebinding read the answers too. Such a request carries
the site's own name in Host, or another origin in Origin, or is of the simple kind that needs no preflight; each of the three is refused.
"""

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from antimatter.errors import UserError

SHORTEST = 16  # characters of a token
_NETLOC = re.compile(
    r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE
)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]*", re.ASCII)  # RFC 6750


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def refusal(hosts: Sequence[str], origins: Sequence[str], allowed: Collection[str]) -> str | None:
    """Why a request with these Host and Origin headers is not for us; None if it is.

    Args:
        allowed: further names, in lower case, e.g. of a tunnel.
    """
    if len(hosts) != 1:
        return f"the request has {len(hosts)} Host headers, it needs one"
    name = _name(hosts[0])
    if name is None or not (
        _is_address(name) or name in {"localhost", socket.gethostname().lower()} or name in allowed
    ):
        return f"the host {_shown(hosts[0])} is not served here: start the server with --allow-host and that name if it is yours"
    if len(origins) > 1:
        return f"the request has {len(origins)} Origin headers, it may have one"
    for origin in origins:
        scheme, _, netloc = origin.lower().partition("://")
        if scheme not in ("http", "https") or not (
            netloc == hosts[0].lower() or _name(netloc) in allowed
        ):
            return f"the origin {_shown(origin)} is another site: open this server's own page, or start it with --allow-host if it is yours"
    return None


def allowed(name: str) -> str:
    """The name as `refusal` wants it. Raises ValueError if it is none."""
    if not (found := _NETLOC.fullmatch(name)) or found[0] != (found[1] or found[2]):
        raise UserError(f"--allow-host must be a name alone, as chat.example.org, got {name!r}")
    return name.lower()


def _name(netloc: str) -> str | None:
    found = _NETLOC.fullmatch(netloc)
    return (found[1] or found[2]).lower() if found else None


def _is_address(name: str) -> bool:
    """An address in digits is where the request went: no DNS server can have made it mean something else."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    return ascii(text[:80])


def token(file: Path | None, environ: Mapping[str, str], needed: bool) -> str | None:
    """The token that requests must carry: from the file, else from ANTIMATTER_TOKEN, else a new one if one is needed.

    Raises:
        OSError, ValueError: there is none where it should be, or it is no good.
    """
    if file is not None:
        try:
            given, source = file.read_text(encoding="utf-8").strip(), str(file)
        except UnicodeDecodeError:
            raise UserError(f"{file} is not text: it must hold the token alone") from None
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{file} is missing: --token-file must name a file that holds the token alone"
            ) from None
    elif "ANTIMATTER_TOKEN" in environ:
        given, source = environ["ANTIMATTER_TOKEN"].strip(), "ANTIMATTER_TOKEN"
    else:
        return secrets.token_urlsafe(32) if needed else None
    if not _TOKEN.fullmatch(given):
        raise UserError(
            f"the token in {source} has a character that no header can carry: letters, digits and -._~+/= are good"
        )
    if len(given) < SHORTEST:
        raise UserError(
            f"the token in {source} has {len(given)} characters, it needs {SHORTEST}: `openssl rand -hex 24` makes a good one"
        )
    return given


def is_authorised(headers: Sequence[str], token: str) -> bool:
    """Whether the Authorization headers are one that carries the token. Takes the same time for a wrong token, however much of it is right."""
    scheme, _, given = (headers[0] if len(headers) == 1 else "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode("utf-8", "surrogateescape"), token.encode()
    )


def security_headers(page: str) -> dict[str, str]:
    """For every answer. A browser runs the script and the style of `page`, known by their hashes, and loads nothing from anywhere else.

    Raises:
        ValueError: the page has not exactly one <style> and one <script>.
    """
    policy = [
        "default-src 'none'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    for element in ("script", "style"):
        found = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        if len(found) != 1:
            raise UserError(
                f"the chat page must have one <{element}> element without attributes, it has {len(found)}"
            )
        digest = base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()
        policy.append(f"{element}-src 'sha256-{digest}'")
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
        "Server": "antimatter",
    }
