"""Fetching an address that a client named: allowed hosts only, checked IPs, no redirects.

A name is resolved once and the connection goes to the checked addresses, so that an answer that
changes between check and use (DNS rebinding) has no effect. Addresses of this machine, its networks
and its provider's services are never reached.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from lingshu.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    import aiohttp

# From a host and a port to its IP addresses.
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Public IPv6 (RFC 4291), and in it the ranges that embed IPv4 addresses: Teredo and 6to4. Mapped,
# translated and NAT64 addresses are outside.
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
_TUNNEL_NETWORKS = (ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("2002::/16"))


@dataclass(frozen=True)
class FetchPolicy:
    """What may be fetched: from `hosts`, each a name or name:port, within bytes and seconds.

    `networks` may be reached although they are not public, such as that of a hospital's archive.
    """

    hosts: frozenset[str]
    max_bytes: int = 64 << 20
    timeout_s: float = 10.0
    networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for host in self.hosts:
            if not host or any(char in host for char in "/@* ?#") or host != host.lower():
                remedy = "write a lower-case name, or name:port, without scheme and path"
                raise ConfigError(f"{host!r} is not a host; {remedy}.")


async def fetch(url: str, policy: FetchPolicy, *, resolve: Resolver | None = None) -> bytes:
    """The body of an http(s) address.

    Raises:
        InputError: the host is not allowed, one of its addresses is not public, or the answer is
            not a body of status 200 within the limits. The message repeats neither the address nor
            the answer.
    """
    import aiohttp

    parts, host, port = _parse(url, policy)
    try:
        async with asyncio.timeout(policy.timeout_s):
            addresses = list(await (resolve or system_resolver)(host, port))
            if not addresses or not all(_is_allowed(address, policy) for address in addresses):
                problem = "the address leads into a network that is not public"
                raise InputError(f"{problem}; send the image itself.")
            connector = aiohttp.TCPConnector(
                resolver=_pinned_resolver(addresses), use_dns_cache=False, force_close=True, limit=1
            )
            options: dict[str, Any] = {
                "cookie_jar": aiohttp.DummyCookieJar(),
                "trust_env": False,
                "auto_decompress": False,
            }
            async with aiohttp.ClientSession(connector=connector, **options) as client:
                # Not compressed: a small answer must not become a large one.
                headers = {"Accept-Encoding": "identity", "User-Agent": "lingshu"}
                async with client.get(
                    parts.geturl(), headers=headers, allow_redirects=False
                ) as response:
                    return await _body(response, policy.max_bytes)
    except TimeoutError as error:
        problem = f"the address gave no complete answer within {policy.timeout_s:g} s"
        raise InputError(f"{problem}; send the image itself.") from error
    except (aiohttp.ClientError, OSError, UnicodeError, ValueError) as error:
        raise InputError("the address could not be fetched; send the image itself.") from error


def _parse(url: str, policy: FetchPolicy) -> tuple[SplitResult, str, int]:
    """The parts of an allowed address, its host and its port."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        problem = "the address of the image is not valid"
        raise InputError(f"{problem}; write http(s)://host/path.") from error
    has_credentials = parts.username is not None or parts.password is not None
    if parts.scheme not in _DEFAULT_PORTS or not host or has_credentials or "\\" in url:
        problem = "the address of the image may not be fetched"
        raise InputError(f"{problem}; write http(s)://host/path without a password.")
    default_port = _DEFAULT_PORTS[parts.scheme]
    port = default_port if port is None else port
    names = {f"{host}:{port}", *([host] if port == default_port else [])}
    if not names & policy.hosts:
        raise InputError("images are not fetched from this host; send the image itself.")
    return parts, host, port


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    if response.status != 200:
        raise InputError(
            f"the address answers with HTTP status {response.status}, and redirects are not"
            " followed; send the image itself."
        )
    data = await read_bounded(response, limit)
    if data is None:
        problem = f"the file at the address is larger than {limit >> 20} MB"
        raise InputError(f"{problem}; make it smaller.")
    return data


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body, or None if it is longer than `limit`; no more than that is ever held."""
    # A stated length is the length of what arrives, unless it is compressed.
    if response.content_length and "Content-Encoding" not in response.headers:
        return await response.read() if response.content_length <= limit else None
    data = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        data += chunk
        if len(data) > limit:
            return None
    return bytes(data)


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """The addresses of the system's resolver, which also reads numbers in every notation."""
    addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in addresses))


def _is_allowed(text: str, policy: FetchPolicy) -> bool:
    try:
        address = ipaddress.ip_address(text.split("%")[0])
    except ValueError:
        return False
    if any(address in ipaddress.ip_network(network) for network in policy.networks):
        return True
    return is_public(address)


def is_public(address: IPAddress) -> bool:
    """Whether an address is public; one that embeds another address is not."""
    is_special = address.is_multicast or address.is_reserved or address.is_unspecified
    if not address.is_global or is_special or address.is_loopback:
        return False
    return isinstance(address, ipaddress.IPv4Address) or (
        address in _GLOBAL_IPV6 and not any(address in tunnel for tunnel in _TUNNEL_NETWORKS)
    )


def _pinned_resolver(addresses: Sequence[str]) -> Any:
    """A resolver for aiohttp that only returns the checked addresses."""
    from aiohttp.abc import AbstractResolver, ResolveResult

    class PinnedResolver(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            results = [
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                    proto=0,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
                for address in addresses
            ]
            return [r for r in results if family in (socket.AF_UNSPEC, r["family"])]

        async def close(self) -> None:
            return None

    return PinnedResolver()
