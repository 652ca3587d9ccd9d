"""The name under which a client's connections and requests are counted."""

from ipaddress import IPv6Address, IPv6Network, ip_address


def client_network(host: str) -> str:
    """The network that counts as one client: an IPv4 address, or the /64 of an IPv6 address.

    A provider assigns each customer at least a /64 (RFC 6177). A host that is not an address, such as a Unix socket,
    counts as itself.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if not isinstance(address, IPv6Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))


def network_of(client: tuple[str, int] | None) -> str:
    """The network of a client's host and port; clients without an address count as one."""
    return client_network(client[0] if client else "")
