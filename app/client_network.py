"""Under which name a client's connections and requests are counted."""

from ipaddress import IPv6Address, IPv6Network, ip_address


def client_network(host: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address.

    One customer of a provider gets at least a whole /64 (RFC 6177). A host that is no address, as of a Unix socket,
    counts as itself.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if not isinstance(address, IPv6Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))
