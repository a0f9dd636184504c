"""Bring one gobgpd to what a `SpeakerSpec` says: look at what it has, do what is missing.

Every function may be repeated, and does nothing where nothing is missing. Order matters: first the instance,
then the policies, then the peers, so that no session ever runs without policy. Decides by gobgpd's state,
never by its error texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgp.errors import SidecarIncompatible, SidecarRefused
from bgp.policy import export_policy, import_policy
from bgp.schema import Api

if TYPE_CHECKING:
    from bgp.client import Client
    from bgp.convert import RunningGlobal, RunningPeer
    from bgp.events import PeerSpec, SpeakerSpec


async def ensure_global(client: Client, spec: SpeakerSpec) -> bool:
    """Make gobgpd run under our ASN, router id and port.

    Returns:
        Whether it was started: it was empty, or had to forget what it was.

    Raises:
        SidecarIncompatible: It runs as something else and cannot change without a restart of its process.
        SidecarError: As any call.
    """
    running = await client.running_global()
    if running.asn and not _is_ours(running, spec):
        if client.api is Api.V4:
            raise SidecarIncompatible(
                "StartBgp",
                f"gobgpd runs as AS {running.asn}, router id {running.router_id}, port {running.listen_port}; "
                f"wanted AS {spec.asn}, router id {spec.router_id}, port {spec.listen_port}: restart gobgpd",
            )
        await client.stop()
        running = await client.running_global()
    if running.asn:
        return False
    await client.start(spec)
    return True


async def ensure_policies(client: Client, spec: SpeakerSpec) -> bool:
    """Put our two policies in force.

    Returns:
        Whether that changed anything: sessions that are up must then be judged anew.
    """
    return await client.ensure_policies(import_policy(spec), export_policy(spec))


async def ensure_peers(client: Client, spec: SpeakerSpec) -> tuple[str, ...]:
    """Give gobgpd exactly the peers of `spec`: foreign ones go, changed ones are replaced.

    Returns:
        In words, the peers that gobgpd would not take; the others work.

    Raises:
        SidecarError: As any call, but for a refusal of one peer.
    """
    wanted = {peer.address: peer for peer in spec.peers}
    present = {peer.address: peer for peer in await client.peers()}
    refused: list[str] = []
    for address, running in present.items():
        peer = wanted.get(address)
        if peer is None or _differs(running, peer):
            await client.delete_peer(address)
        else:
            del wanted[address]
    for peer in wanted.values():
        try:
            await client.add_peer(peer)
        except SidecarRefused as error:
            refused.append(f"gobgpd refuses the peer {peer.address}: {error.detail}")
    return tuple(refused)


def is_complete(spec: SpeakerSpec, running: RunningGlobal, peers: tuple[RunningPeer, ...]) -> bool:
    """Whether a probe found what `ensure_global` and `ensure_peers` left: the cheap check while running."""
    return _is_ours(running, spec) and {each.address for each in peers} == {
        each.address for each in spec.peers
    }


def _is_ours(running: RunningGlobal, spec: SpeakerSpec) -> bool:
    return (running.asn, running.router_id, running.listen_port) == (
        spec.asn,
        str(spec.router_id),
        spec.listen_port,
    )


def _differs(running: RunningPeer, peer: PeerSpec) -> bool:
    return (
        running.asn,
        running.local_address,
        running.hold_time_seconds,
        running.keepalive_seconds,
        running.passive,
        running.remote_port,
        running.families,
    ) != (
        peer.asn,
        str(peer.local_address),
        peer.hold_time_seconds,
        peer.keepalive_seconds,
        peer.passive,
        peer.remote_port,
        frozenset({4, 6} if peer.ipv6_unicast else {4}),
    )
