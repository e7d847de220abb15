"""Who may send requests: hosts, origins and tokens."""

import json
import os
import socket
from pathlib import Path

import pytest
from helpers.backends import ScriptedBackend
from helpers.http_server import CHAT, question, serving

from antimatter.errors import UserError
from antimatter.serve.http import access

ALLOWED = {"chat.example.org"}
TOKEN = "a-Token-of-16-chars"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]:8000",
        "192.168.1.5:8000",
        "[2001:db8::1]",
        socket.gethostname(),
        "chat.example.org",
        "Chat.Example.Org:443",
    ],
)
def test_hosts_that_are_this_server(host: str) -> None:
    access.check_origin([host], [], ALLOWED)


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "evil.com:8000",
        "",
        "localhost:",
        ":80",
        "x y",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "user@localhost",
        "localhost/evil",
        "localhost,evil.com",
        "[::1",
        "ⅼocalhost",
        "localhost:999999",
        "chat.example.org.",
        "sub.chat.example.org",
        "localhost\u00a0",
        "127.0.0.1 ",
        "lOcalhoſt",
    ],
)
def test_hosts_that_are_not_this_server(host: str) -> None:
    with pytest.raises(UserError, match="--allow-host"):
        access.check_origin([host], [], ALLOWED)


def test_there_is_one_host() -> None:
    for hosts in ([], ["localhost", "localhost"]):
        with pytest.raises(UserError, match=f"{len(hosts)} Host headers"):
            access.check_origin(hosts, [], set())


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:8000",
        "https://localhost:8000",
        "HTTP://LOCALHOST:8000",
        "https://chat.example.org",
    ],
)
def test_origins_that_are_this_server(origin: str) -> None:
    access.check_origin(["localhost:8000"], [origin], ALLOWED)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://localhost",
        "http://localhost:3000",
        "http://127.0.0.1:8000",
        "http://203.0.113.5",
        "http://evil.com",
        "file://",
        "chrome-extension://localhost:8000",
        "http://localhost:8000.evil.com",
        "http://localhost:8000/",
        "http://chat.example.org.evil.com",
        "localhost:8000",
        "http://x@localhost:8000",
    ],
)
def test_origins_that_are_another_site(origin: str) -> None:
    with pytest.raises(UserError, match="--allow-host"):
        access.check_origin(["localhost:8000"], [origin], ALLOWED)


def test_foreign_hosts_and_origins_get_403_on_every_route() -> None:
    foreign = {"Host": "evil.com"}, {"Origin": "https://evil.com"}, {"Origin": "null"}
    with serving(ScriptedBackend()) as served:
        for method, path in (
            ("GET", "/"),
            ("GET", "/health"),
            ("POST", CHAT),
            ("OPTIONS", CHAT),
            ("GET", "/v1/models"),
            ("GET", "/v1/models/antimatter"),
            ("GET", "/api/tags"),
            ("GET", "/api/ps"),
            ("GET", "/api/version"),
            ("POST", "/api/chat"),
            ("POST", "/api/generate"),
            ("POST", "/api/show"),
            ("POST", "/api/pull"),
            ("GET", "/absent"),
        ):
            for headers in foreign:
                status, _, body = served.request(method, path, headers=headers)
                assert status == 403 and b"--allow-host" in body


def test_the_api_needs_the_token_and_the_page_does_not() -> None:
    with serving(ScriptedBackend(repeats=1), token=TOKEN) as served:
        for path in ("/", "/favicon.ico", "/health"):
            assert served.request("GET", path)[0] in (200, 204)
        no_utf8 = "Bearer é\udcff".encode("utf-8", "surrogateescape").decode("latin-1")
        for header in (
            "",
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Basic {TOKEN}",
            no_utf8,
        ):
            headers = {"Authorization": header} if header else {}
            status, answer, body = served.request("GET", "/v1/models", headers=headers)
            assert (status, answer["WWW-Authenticate"]) == (401, "Bearer")
            assert json.loads(body)["error"]["type"] == "authentication_error"
        # However the path is written, and whether it exists or not
        for path in (f"/v1/models?token={TOKEN}", "/%761/models", "/v1/absent", "/api/tags"):
            assert served.request("GET", path)[0] == 401
        for path in ("/v1/models/antimatter", "/api/ps", "/api/version", "/%61pi/tags", "/api/x"):
            assert served.request("GET", path)[0] == 401
        for path in (CHAT, "/api/chat", "/api/generate", "/api/show", "/api/pull"):
            assert served.request("POST", path, question())[0] == 401
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {TOKEN}"}
            assert served.request("GET", "/v1/models", headers=headers)[0] == 200
            assert served.request("POST", CHAT, question(), headers)[0] == 200


def test_a_token_comes_from_a_file_or_the_environment_or_is_generated(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("from-the-file-0123456789\n")
    environ = {"ANTIMATTER_TOKEN": "from-the-environment"}
    assert access.load_token(path, environ, required=False) == "from-the-file-0123456789"
    assert access.load_token(None, environ, required=False) == "from-the-environment"
    assert access.load_token(None, {}, required=False) is None
    # As `--token-file <(command)` passes it
    reader, writer = os.pipe()
    os.write(writer, b"from-a-pipe-0123456789")
    os.close(writer)
    piped = access.load_token(Path(f"/dev/fd/{reader}"), environ, required=False)
    os.close(reader)
    assert piped == "from-a-pipe-0123456789"
    generated = {access.load_token(None, {}, required=True) for _ in range(5)}
    assert len(generated) == 5 and all(token and len(token) >= 40 for token in generated)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "has 0 characters, it needs 16"),
        ("short", "has 5 characters, it needs 16"),
        ("a b" * 9, "a character that no header can have"),
        ("é" * 20, "a character that no header can have"),
        ("line-one-is-long\nline-two-is-long", "a character that no header can have"),
    ],
)
def test_a_weak_or_invalid_token_is_refused(tmp_path: Path, token: str, words: str) -> None:
    path = tmp_path / "token"
    path.write_text(token)
    with pytest.raises(UserError, match=f"{path} .*{words}"):
        access.load_token(path, {}, required=True)
    with pytest.raises(UserError, match=f"ANTIMATTER_TOKEN .*{words}"):
        access.load_token(None, {"ANTIMATTER_TOKEN": token}, required=True)


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff" * 40)
    with pytest.raises(UserError, match="token is not text"):
        access.load_token(tmp_path / "token", {}, required=True)
    with pytest.raises(UserError, match=r"absent is missing: --token-file"):
        access.load_token(tmp_path / "absent", {}, required=True)
