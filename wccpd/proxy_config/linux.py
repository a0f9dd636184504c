"""The kernel's part on a Linux proxy: GRE devices, interception, the way back of answers. A POSIX shell script.

An answer to a client must go back to the router that sent the question, whatever the proxy's own routes say: it tracks
the connection and knows its MTU. So connections are marked by the device that they came in by, and their answers are
routed by that mark. What the proxy itself fetches is not touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wccpd.wire.enums import ForwardingMethod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wccpd.proxy_config.side import Side

HTTP_PORT, TLS_PORT = 3129, 3130
"""Where the proxy listens for intercepted connections."""
TABLE = "wccp_proxy"
FIRST_NUMBER = 18001
"""Of routing tables and rule priorities, one for each router; also the connection marks."""


def script(side: Side) -> str:
    """The whole script."""
    return "\n".join((*head(side, "linux"), "set -eu", *body(side), ""))


def head(side: Side, kind: str, environment: str = "") -> Iterator[str]:
    """The first lines: what this is, and how to use it."""
    yield "#!/bin/sh"
    yield f"# The proxy {side.cache}, as its router {side.routers[0]} wants it."
    yield f"# Made by `wccpctl proxy-config {kind} {side.cache}`. To be run on the proxy, as root, at every boot;"
    yield "# running it again does no harm."
    if environment:
        yield f"#   {environment} sh FILE"
    for remark in side.remarks:
        yield f"# Left out: {remark}"


def body(side: Side) -> Iterator[str]:
    """Everything but the head."""
    gre = side.forwarding is ForwardingMethod.GRE
    yield f"HTTP_PORT=${{HTTP_PORT:-{HTTP_PORT}}}  # where the proxy listens for intercepted HTTP"
    if side.tls_ports:
        yield f"TLS_PORT=${{TLS_PORT:-{TLS_PORT}}}   # and for intercepted TLS"
    yield ""
    yield from _devices(side) if gre else _segment(side)
    yield ""
    yield "# Interception, and a mark for each router by which answers find back."
    yield f"nft delete table ip {TABLE} 2>/dev/null || true"
    yield "nft -f - <<END"
    yield from _ruleset(side)
    yield "END"
    yield ""
    yield "# Answers go back to the router that sent the question."
    for number, router in enumerate(side.routers if gre else side.routers[:1]):
        mark = FIRST_NUMBER + number
        way = f"dev wccp{number + 1}" if gre else f'via {router} dev "$DEVICE"'
        yield f"ip route replace default {way} table {mark}"
        yield f"ip rule del priority {mark} 2>/dev/null || true"
        yield f"ip rule add priority {mark} fwmark {mark} lookup {mark}"


def _devices(side: Side) -> Iterator[str]:
    """GRE devices. They carry the proxy's address: loose reverse-path filtering is strict on a device without any."""
    yield "# One GRE device for each router. The kernel strips WCCP's header by itself."
    yield "modprobe ip_gre 2>/dev/null || true"
    for number, router in enumerate(side.routers, 1):
        device = f"wccp{number}"
        yield f"ip link del {device} 2>/dev/null || true"
        yield f"ip link add {device} type gre local {side.cache} remote {router} ttl 255"
        yield f"ip address add {side.cache}/32 dev {device}"
        yield f"sysctl -q -w net.ipv4.conf.{device}.rp_filter=2  # clients are routed elsewhere"
        yield f"ip link set {device} up"


def _segment(side: Side) -> Iterator[str]:
    yield "# Packets come in frames of the router, on the segment of this address."
    yield f"DEVICE=$(ip -o -4 address show to {side.cache} | awk '{{ print $2; exit }}')"
    yield f'[ -n "$DEVICE" ] || {{ echo "no device has the address {side.cache}" >&2; exit 1; }}'
    yield 'sysctl -q -w "net.ipv4.conf.$DEVICE.rp_filter=2"  # clients are routed elsewhere'


def _ruleset(side: Side) -> Iterator[str]:
    gre = side.forwarding is ForwardingMethod.GRE
    # `redirect` would need an address of the packet's network on the device; `dnat` to our own does not.
    comes_in = 'iifname "wccp*"' if gre else 'iifname "$DEVICE" fib daddr type unicast'
    yield f"table ip {TABLE} {{"
    yield "  chain intercept {"
    yield "    type nat hook prerouting priority dstnat;"
    for ports, target in ((side.clear_ports, "$HTTP_PORT"), (side.tls_ports, "$TLS_PORT")):
        if ports:
            yield f"    {comes_in} tcp dport {{ {', '.join(map(str, ports))} }} dnat to {side.cache}:{target}"
    yield "  }"
    yield "  chain remember {"
    yield "    type filter hook prerouting priority mangle;"
    if gre:
        for number in range(len(side.routers)):
            yield f'    iifname "wccp{number + 1}" ct mark set {FIRST_NUMBER + number}'
    elif side.ports:
        every = ", ".join(map(str, side.ports))
        yield f"    {comes_in} tcp dport {{ {every} }} ct mark set {FIRST_NUMBER}"
    yield "  }"
    yield "  chain answers {"
    yield "    type route hook output priority mangle;"
    last = FIRST_NUMBER + len(side.routers) - 1
    yield f"    ct direction reply ct mark {FIRST_NUMBER}-{last} meta mark set ct mark"
    yield "  }"
    yield "}"
