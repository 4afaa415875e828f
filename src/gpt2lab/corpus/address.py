"""Which addresses may be connected to: those of the public internet and no others.

The check is made where a connection is opened, on the very address it goes to. A name that answers
with a public address when asked and a private one when connected (DNS rebinding), a redirect to a
machine next door, `http://2130706433/` and the rest all end here.
"""

import ipaddress
from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.internet.interfaces import IHostnameResolver, IResolutionReceiver
from zope.interface import implementer

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_6TO4 = ipaddress.ip_network("2002::/16")
_DOCUMENTATION = ipaddress.ip_network("3fff::/20")
_TEREDO = ipaddress.ip_network("2001::/32")


def is_public(text: str, allowed: Sequence[Network] = ()) -> bool:
    """Whether an address is global, or in one of the networks allowed on purpose.

    IPv6 forms that carry an IPv4 address (mapped, NAT64, 6to4) are judged by that address.
    """
    try:
        address = ipaddress.ip_address(text.split("%", maxsplit=1)[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return is_public(str(inner), allowed)
        if address in _TEREDO:
            return False
    if any(address in network for network in allowed if network.version == address.version):
        return True
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    # Not known to every Python's tables.
    return address.version == 4 or not (address.is_site_local or address in _DOCUMENTATION)


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _6TO4:
        return address.sixtofour
    return None


@implementer(IResolutionReceiver)
class _Filter:
    """Hands on the addresses that may be connected to."""

    def __init__(self, receiver: Any, host: str, resolver: "PublicResolver") -> None:
        self._receiver, self._host, self._resolver = receiver, host, resolver
        self._passed = self._refused = 0

    def resolutionBegan(self, resolution: Any) -> None:
        self._receiver.resolutionBegan(resolution)

    def addressResolved(self, address: Any) -> None:
        if is_public(address.host, self._resolver.networks):
            self._passed += 1
            self._receiver.addressResolved(address)
        else:
            self._refused += 1

    def resolutionComplete(self) -> None:
        if self._refused and not self._passed:
            self._resolver.refused.add(self._host)
        self._receiver.resolutionComplete()


@implementer(IHostnameResolver)
class PublicResolver:
    """Twisted's own resolver, of whose answers only public addresses are passed on.

    Every connection of Scrapy's handler resolves its host here, literal addresses included, and
    connects to what it is given. Nothing is cached, so no address is used that was not judged.
    """

    # Scrapy makes the resolver; the crawler reads what it refused here.
    refused: ClassVar[set[str]] = set()
    networks: ClassVar[tuple[Network, ...]] = ()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._original = reactor.nameResolver

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> "PublicResolver":
        cls.networks = tuple(
            ipaddress.ip_network(n) for n in crawler.settings.getlist("GPT2LAB_NETWORKS")
        )
        return cls(reactor)

    def install_on_reactor(self) -> None:
        self._reactor.installNameResolver(self)

    def resolveHostName(
        self, receiver: Any, hostName: str, *arguments: Any, **keywords: Any
    ) -> Any:
        filtered = _Filter(receiver, hostName, self)
        return self._original.resolveHostName(filtered, hostName, *arguments, **keywords)
