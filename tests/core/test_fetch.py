"""Addresses that clients name: one connection to a checked address of an allowed host, or none at
all.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from lingshu.core.errors import ConfigError, InputError
from lingshu.core.fetch import FetchPolicy, fetch, is_public, system_resolver


class LocalServer:
    """Listens on this machine, counts connections and replies with `answer`."""

    def __init__(self) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"
        self.n_connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.n_connections += 1
            with client:
                client.recv(65536)
                client.sendall(self.answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def canary() -> Iterator[LocalServer]:
    server = LocalServer()
    yield server
    server.close()


class FakeResolver:
    """A resolver that gives one answer after the other, and counts."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers, self.n_lookups = list(answers), 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.n_lookups += 1
        return self.answers[min(self.n_lookups, len(self.answers)) - 1]


def get(url: str, rules: FetchPolicy, names: FakeResolver | None = None) -> bytes:
    return asyncio.run(fetch(url, rules, resolve=names))


def refusal_message(url: str, rules: FetchPolicy, names: FakeResolver | None = None) -> str:
    with pytest.raises(InputError) as error:
        get(url, rules, names)
    return str(error.value)


def local(canary: LocalServer, **limits: float) -> FetchPolicy:
    """Rules that take this machine for a hospital's archive."""
    return FetchPolicy(frozenset({f"pacs.test:{canary.port}"}), networks=("127.0.0.0/8",), **limits)  # type: ignore[arg-type]


def test_an_allowed_host_is_fetched_from_the_address_that_was_checked(canary: LocalServer) -> None:
    names = FakeResolver(["127.0.0.1"])
    assert get(f"http://pacs.test:{canary.port}/a.png", local(canary), names) == b"image"
    assert (names.n_lookups, canary.n_connections) == (1, 1)


SPELLINGS = (
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "[::1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0.0.0.0", "0", "[::]", "localhost", "LOCALHOST",
    "localhost.", "127.0.0.1.", "①②⑦.⓪.⓪.①",
)  # fmt: skip


@pytest.mark.parametrize("host", SPELLINGS)
def test_this_machine_is_never_reached_even_where_its_name_is_allowed(
    canary: LocalServer, host: str
) -> None:
    named = host.lower().strip("[]").rstrip(".")
    refusal_message(
        f"http://{host}:{canary.port}/",
        FetchPolicy(frozenset({f"{named}:{canary.port}"}), timeout_s=5),
    )
    assert canary.n_connections == 0


PRIVATE = (
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1",
    "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
    "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:a00:1::", "2002:808:808::",
    "2001:0:a00:1::", "fec0::1", "100::1", "5f00::1", "4000::1", "not an address",
)  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_into_a_network_is_refused_before_any_connection(
    canary: LocalServer, address: str
) -> None:
    rules = FetchPolicy(frozenset({f"images.test:{canary.port}"}))
    assert "not public" in refusal_message(
        f"http://images.test:{canary.port}/", rules, FakeResolver([address])
    )
    assert "not public" in refusal_message(
        f"http://images.test:{canary.port}/", rules, FakeResolver(["93.184.215.14", address])
    )
    assert canary.n_connections == 0


def test_public_addresses_are_public() -> None:
    for address in ("8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001:80b::200e"):
        assert is_public(ipaddress.ip_address(address))


def test_a_name_is_resolved_once(canary: LocalServer) -> None:
    # Rebinding: the first answer passes the check, and nobody listens there; the next would lead to
    # the canary.
    names = FakeResolver(["127.0.0.2"], ["127.0.0.1"])
    rules = FetchPolicy(frozenset({f"images.test:{canary.port}"}), networks=("127.0.0.2/32",))
    assert "could not be fetched" in refusal_message(
        f"http://images.test:{canary.port}/", rules, names
    )
    assert (names.n_lookups, canary.n_connections) == (1, 0)


def test_redirects_are_not_followed(canary: LocalServer) -> None:
    canary.answer = (
        f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{canary.port}/\r\nContent-Length:"
        " 0\r\n\r\n".encode()
    )
    assert "status 302" in refusal_message(
        f"http://pacs.test:{canary.port}/", local(canary), FakeResolver(["127.0.0.1"])
    )
    assert canary.n_connections == 1


def test_endless_and_large_bodies_are_refused(canary: LocalServer) -> None:
    url, names = f"http://pacs.test:{canary.port}/", FakeResolver(["127.0.0.1"])
    canary.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\nx"
    assert "larger" in refusal_message(url, local(canary, max_bytes=100), names)
    canary.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 1000
    assert "larger" in refusal_message(url, local(canary, max_bytes=100), names)
    canary.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"
    assert "could not be fetched" in refusal_message(url, local(canary), names)


@pytest.mark.parametrize(
    "url",
    [
        "http://other.test/", "http://images.test.evil/", "http://evil-images.test/", "http://images.test@evil.test/", "http://images.test:81/",
        "http://user:word@images.test/", "file:///etc/passwd", "ftp://images.test/", "gopher://images.test/", "http://", "http://[",
        "//images.test/", "http://images.test\\@evil.test/", "http://images.test:99999/", "data:text/plain,x", "HTTP:images.test",
    ],
)  # fmt: skip
def test_other_hosts_ports_and_schemes_are_not_resolved(url: str) -> None:
    names = FakeResolver(["93.184.215.14"])
    message = refusal_message(url, FetchPolicy(frozenset({"images.test"})), names)
    assert names.n_lookups == 0 and "evil" not in message


def test_the_systems_resolver_reads_numbers_in_every_spelling() -> None:
    assert asyncio.run(system_resolver("0x7f000001", 80)) == ["127.0.0.1"]


def test_hosts_are_names() -> None:
    for host in ("http://images.test", "*.test", "", "Images.test"):
        with pytest.raises(ConfigError, match="is not a host"):
            FetchPolicy(frozenset({host}))
