"""Who may send requests: the rules for Host, Origin and token; and the headers that restrict what a
browser does with a response.

A page of any web site can make a visitor's browser send requests to 127.0.0.1 and, by DNS
rebinding, read the responses too. Such a request has the site's name in Host, or another origin in
Origin, or it is of the simple kind that needs no preflight. Each of the three is refused. Clients
of Ollama send requests of the simple kind, so its API refuses only those of a browser.
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

MIN_TOKEN_LENGTH = 16
_MAX_TOKEN_FILE = 4096  # bytes; a header of a request has at most 8 kB
_NETLOC = re.compile(
    r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE
)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]*", re.ASCII)  # RFC 6750


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def check_origin(hosts: Sequence[str], origins: Sequence[str], allowed: Collection[str]) -> None:
    """Checks the Host and Origin headers of a request.

    Args:
        allowed: further host names, in lower case, such as that of a tunnel.

    Raises:
        UserError: the request may come from another site.
    """
    if len(hosts) != 1:
        raise UserError(f"the request has {len(hosts)} Host headers, it needs one")
    name = _host_name(hosts[0])
    own = {"localhost", socket.gethostname().lower(), *allowed}
    if name is None or not (_is_address(name) or name in own):
        fix = "start it with --allow-host and that name if it is yours"
        raise UserError(f"this server is not the host {_quote(hosts[0])}: {fix}")
    if len(origins) > 1:
        raise UserError(f"the request has {len(origins)} Origin headers, it may have one")
    for origin in origins:
        scheme, _, netloc = origin.lower().partition("://")
        is_own = netloc == hosts[0].lower() or _host_name(netloc) in allowed
        if scheme not in ("http", "https") or not is_own:
            fix = "open this server's own page, or start it with --allow-host if the site is yours"
            raise UserError(f"the origin {_quote(origin)} is another site: {fix}")


def parse_allowed_host(name: str) -> str:
    """The value of --allow-host in lower case. Raises UserError if it is not a host name."""
    match = _NETLOC.fullmatch(name)
    if not match or match[0] != (match[1] or match[2]):
        raise UserError(f"--allow-host must be a name alone, as chat.example.org, got {name!r}")
    return name.lower()


def check_content_type(
    headers: Mapping[str, str], content_type: str, charset: str | None, *, any_type: bool
) -> None:
    """Checks the headers of a request with a body, which must be JSON.

    Args:
        any_type: the header may say something else, unless a browser sent the request. By the
            Fetch standard a browser adds Origin to every POST to another site, and no page can
            prevent it. The two others are for browsers that are older.

    Raises:
        UserError: the body is something else, or a page of another site may have sent it.
    """
    is_browser = any(name in headers for name in ("Origin", "Sec-Fetch-Site", "Referer"))
    is_json = content_type == "application/json" or (any_type and not is_browser)
    is_utf8 = (charset or "utf-8").lower() == "utf-8"
    if not (is_json and is_utf8) or "Content-Encoding" in headers:
        raise UserError(
            "the request must have the header `Content-Type: application/json`, "
            "and be neither compressed nor in another character set"
        )


def _host_name(netloc: str) -> str | None:
    match = _NETLOC.fullmatch(netloc)
    return (match[1] or match[2]).lower() if match else None


def _is_address(name: str) -> bool:
    """Whether the name is an IP address. The request went to that address, and no DNS server could
    have changed that.
    """
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _quote(text: str) -> str:
    return ascii(text[:80])


def load_token(file: Path | None, environ: Mapping[str, str], required: bool) -> str | None:
    """The token that requests must have: from the file, else from ANTIMATTER_TOKEN, else a new one
    if one is required.

    Raises:
        UserError: the file cannot be read, or the token is too weak or not valid in a header.
    """
    if file is not None:
        value, source = _read_token(file), str(file)
    elif "ANTIMATTER_TOKEN" in environ:
        value, source = environ["ANTIMATTER_TOKEN"].strip(), "ANTIMATTER_TOKEN"
    else:
        return secrets.token_urlsafe(32) if required else None
    if not _TOKEN.fullmatch(value):
        fix = "use letters, digits and -._~+/="
        raise UserError(f"the token in {source} has a character that no header can have: {fix}")
    if len(value) < MIN_TOKEN_LENGTH:
        fix = "`openssl rand -hex 24` makes a good one"
        length = f"{len(value)} characters, it needs {MIN_TOKEN_LENGTH}"
        raise UserError(f"the token in {source} has {length}: {fix}")
    return value


def _read_token(file: Path) -> str:
    fix = "--token-file must name a file that holds the token alone"
    try:
        # A limit, as a device may have no end. Pipes are allowed: `--token-file <(pass …)`
        with file.open("rb") as opened:
            content = opened.read(_MAX_TOKEN_FILE + 1)
    except FileNotFoundError:
        raise UserError(f"{file} is missing: {fix}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): {fix}") from None
    if len(content) > _MAX_TOKEN_FILE:
        raise UserError(f"{file} has more than {_MAX_TOKEN_FILE} bytes: {fix}")
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise UserError(f"{file} is not text: it must hold the token alone") from None


def is_authorised(headers: Sequence[str], token: str) -> bool:
    """Whether the Authorization headers are a single one with the token. The comparison takes the
    same time for every wrong token.
    """
    scheme, _, value = (headers[0] if len(headers) == 1 else "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(
        value.strip().encode("utf-8", "surrogateescape"), token.encode()
    )


def inline_sources(page: str, element: str) -> list[str]:
    """The hash of each <script> or <style> of a page, as a Content-Security-Policy lists it."""
    contents = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


def security_headers(page: str) -> dict[str, str]:
    """For every response. A browser runs the script and the style of `page`, by their hashes, and
    loads nothing from another site.

    Raises:
        AssertionError: the page has not exactly one <style> and one <script>.
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
        sources = inline_sources(page, element)
        if len(sources) != 1:
            raise AssertionError(f"the page must have one <{element}>, it has {len(sources)}")
        policy.append(f"{element}-src {sources[0]}")
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
        "Server": "antimatter",
    }
