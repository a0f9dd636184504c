"""From the operator's configuration to the settings of each part. The only module that knows all vocabularies."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network
from itertools import product
from typing import TYPE_CHECKING, TypeVar

from bgp.advertising import AdvertisePolicy, AdvertiseWhen
from bgp.events import Advertisement, PeerSpec, PrefixRule, SpeakerSpec
from bgp.rib import RibPolicy
from gre.tunnel import GreDevice
from wccpd.doctor.facts import Wanted
from wccpd.plan.marks import MarkLayout
from wccpd.plan.match import service_name
from wccpd.plan.policy import KernelSettings, Policy, RedirectList, ServicePolicy
from wccpd.plan.probe import ProbeKind, ProbePolicy
from wccpd.plan.redirect import EVERY_ADDRESS, EVERY_PORT, AclLine, Action, LostFlows, Mode
from wccpd.protocol.settings import AssignmentPolicy, EngineSettings, Interop, OnLoss, ServiceSettings
from wccpd.proxy_config.side import ServiceSide
from wccpd.wire.components import ServiceInfo
from wccpd.wire.elements import ServiceKey
from wccpd.wire.enums import AssignmentMethod, ForwardingMethod, PacketReturnMethod, ServiceFlags, ServiceType

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv6Network

    from config import Config
    from config.model import Bgp, Tunnel
    from config.services import HashField, Match, Probe, Service


PRIVATE_NETWORKS = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
_Method = TypeVar("_Method", ForwardingMethod, PacketReturnMethod, AssignmentMethod)


def service_key(service: Service) -> ServiceKey:
    """The group identity behind a configured service: `web-cache` is standard service 0, numbers are dynamic."""
    if service.service == "web-cache":
        return ServiceKey(ServiceType.STANDARD, 0)
    return ServiceKey(ServiceType.DYNAMIC, int(service.service))


def engine_settings(
    config: Config, first_number: int, adjacent: tuple[IPv4Network, ...] | None = None
) -> EngineSettings:
    """Settings of the protocol engine.

    Args:
        config: The validated configuration.
        first_number: Where change numbers and Receive IDs start, 1 to 2^32-1.
        adjacent: Networks on our Ethernet segments: L2 is offered only to caches in them. None: to all.
    """
    return EngineSettings(
        router_id=config.router.id,
        addresses=wccp_addresses(config),
        services=tuple(_service_settings(service) for service in config.services),
        first_number=first_number,
        adjacent=adjacent,
    )


def wccp_addresses(config: Config) -> tuple[IPv4Address, ...]:
    """Every address on which we listen for HERE_I_AM, the Router ID first."""
    return tuple(dict.fromkeys((config.router.id, *config.router.addresses)))


def _service_settings(service: Service) -> ServiceSettings:
    secrets = (service.password, service.previous_password)
    wait = service.assignment_wait_seconds
    return ServiceSettings(
        key=service_key(service),
        passwords=tuple(secret.get_secret_value() for secret in secrets if secret is not None),
        group_list=service.group_list,
        group_address=service.group_address,
        policy=AssignmentPolicy(service.assignment.value),
        assignment_wait_seconds=None if wait is None else float(wait),
        minor_version=service.interop.minor_version,
        interop=_interop(service),
        definition=_definition(service_key(service), service.match) if service.match is not None else None,
        on_loss=OnLoss(service.on_loss.value),
        forwarding=_either(ForwardingMethod, service.forwarding),
        packet_return=_either(PacketReturnMethod, service.packet_return),
        assignment=_either(AssignmentMethod, service.assignment_method),
    )


def _either(methods: type[_Method], names: Iterable[str]) -> _Method:
    """The union of configured methods: `gre`, `l2`, `hash`, `mask` are called the same in the draft."""
    return methods(sum(methods[name.upper()].value for name in set(names)))


def _definition(key: ServiceKey, match: Match) -> ServiceInfo:
    """What the operator says a dynamic service is, as a cache would have to say it (draft 5.6.2)."""
    flags = _hash_flags(match.hash) | ServiceFlags(_hash_flags(match.alternate_hash) << _ALTERNATE_SHIFT)
    if match.ports:
        flags |= ServiceFlags.PORTS_DEFINED
    if match.ports and match.ports_are == "source":
        flags |= ServiceFlags.PORTS_SOURCE
    if match.protocol == 0:
        flags |= ServiceFlags.REDIRECT_ONLY_PROTOCOL_0
    return ServiceInfo.dynamic(key.service_id, match.priority, match.protocol or 0, flags, match.ports)


_HASH_FLAGS = {
    "source_ip": ServiceFlags.SOURCE_IP_HASH,
    "destination_ip": ServiceFlags.DESTINATION_IP_HASH,
    "source_port": ServiceFlags.SOURCE_PORT_HASH,
    "destination_port": ServiceFlags.DESTINATION_PORT_HASH,
}
_ALTERNATE_SHIFT = 8
"""From a flag of the primary hash to the same of the alternate one."""


def _hash_flags(fields: Iterable[HashField]) -> ServiceFlags:
    flags = ServiceFlags(0)
    for field in fields:
        flags |= _HASH_FLAGS[field.value]
    return flags


def _interop(service: Service) -> Interop:
    chosen = service.interop
    return Interop(
        answer_unusable=chosen.answer_unusable,
        removal_query_takes_receive_id=chosen.removal_query_takes_receive_id,
        accepted_receive_ids=chosen.accepted_receive_ids,
        priority_defines_service=chosen.priority_defines_service,
        flush_when_not_listed=chosen.flush_when_not_listed,
        bucket_vector_low_bit_first=chosen.bucket_vector_low_bit_first,
    )


def policy(config: Config) -> Policy:
    """What the plan needs to know."""
    devices = tuple(tunnel_device(config, tunnel) for tunnel in config.tunnels)
    excluded = set(config.redirect.exclude_interfaces)
    return Policy(
        router_id=config.router.id,
        services=tuple(_service_policy(service) for service in config.services),
        tunnels=devices,
        ingress=(
            *(device.name for device in devices if device.name not in excluded),
            *config.redirect.interfaces,
        ),
        never=config.redirect.never,
        zone=config.router.zone or "",
        zones=tuple((each.network, each.zone) for each in config.caches),
        clamp_mss=config.redirect.clamp_mss,
        clear_df=config.redirect.clear_df,
    )


def _service_policy(service: Service) -> ServicePolicy:
    return ServicePolicy(
        key=service_key(service),
        mode=Mode(service.mode.value),
        redirect_list=_redirect_list(service),
        fallthrough=service.fallthrough,
        affinity=service.affinity,
        lost_flows=LostFlows(service.lost_flows.value),
        prefer_zone=service.prefer_zone,
        zone_quorum=service.zone_quorum,
        probe=_probe_policy(service.probe),
    )


def _probe_policy(probe: Probe | None) -> ProbePolicy | None:
    if probe is None:
        return None
    return ProbePolicy(
        ProbeKind(probe.kind.value),
        probe.canary,
        probe.canary_port,
        interval_seconds=probe.interval_milliseconds / 1000,
        timeout_seconds=probe.timeout_milliseconds / 1000,
        fail_after=probe.fail_after,
        recover_after=probe.recover_after,
        path=probe.path,
    )


def _redirect_list(service: Service) -> RedirectList:
    """The list with one line per combination of what a configured line enumerates."""
    lines, origins = [], []
    for number, line in enumerate(service.redirect_list):
        combinations = product(
            line.sources or (EVERY_ADDRESS,),
            line.destinations or (EVERY_ADDRESS,),
            line.source_ports or (EVERY_PORT,),
            line.destination_ports or (EVERY_PORT,),
        )
        for source, destination, source_ports, destination_ports in combinations:
            action = Action(line.action.value)
            lines.append(AclLine(action, source, destination, line.protocol, source_ports, destination_ports))
            origins.append(number)
    return RedirectList(tuple(lines), tuple(origins), tuple(map(str, service.redirect_list)))


def kernel_settings(config: Config) -> KernelSettings:
    """How our objects in the kernel are recognised."""
    kernel = config.kernel
    return KernelSettings(
        services=tuple(service_name(service_key(service)) for service in config.services),
        device_prefix=kernel.device_prefix,
        marks=MarkLayout(kernel.mark_shift),
        table_base=kernel.table_base,
        rule_priority=kernel.rule_priority,
        route_protocol=kernel.route_protocol,
        nft_table=kernel.nft_table,
    )


def wanted_of_host(config: Config) -> Wanted:
    """What a doctor holds the host against."""
    settings, plan = kernel_settings(config), policy(config)
    methods = {method.value for each in config.services for method in (*each.forwarding, *each.packet_return)}
    return Wanted(
        wccp_addresses=wccp_addresses(config),
        tunnels=plan.tunnels,
        ingress=plan.ingress,
        device_prefix=settings.device_prefix,
        nft_table=settings.nft_table,
        marks_mask=settings.marks.mask,
        slot_mask=settings.marks.slot_mask,
        route_protocol=settings.route_protocol,
        rule_priority=settings.rule_priority,
        sends_gre="gre" in methods,
        sends_l2="l2" in methods,
        is_netlink=config.redirect.dataplane.value == "netlink",
        has_affinity=any(each.affinity for each in config.services),
        clamps_mss=config.redirect.clamp_mss,
        gobgp_socket=str(config.bgp.gobgp_socket) if config.bgp is not None else "",
        password_octets={
            str(each.service): len(each.password.get_secret_value()) if each.password is not None else 0
            for each in config.services
        },
        open_services=tuple(
            str(each.service) for each in config.services if each.password is None and not each.group_list
        ),
        state_directory=str(config.state_directory),
    )


def proxy_services(config: Config) -> tuple[ServiceSide, ...]:
    """What a proxy may join, as far as the configuration says what it is."""
    found = []
    for service in config.services:
        settings = _service_settings(service)
        info = settings.definition
        if service.service == "web-cache":
            info = ServiceInfo.web_cache()
        found.append(
            ServiceSide(
                name=service_name(settings.key),
                info=info,
                has_password=service.password is not None,
                forwarding=settings.forwarding,
                packet_return=settings.packet_return,
                assignment=settings.assignment,
            )
        )
    return tuple(found)


def group_lists(config: Config) -> dict[str, tuple[IPv4Network, ...]]:
    """Who may join each service; empty: everybody."""
    return {service_name(service_key(service)): service.group_list for service in config.services}


def client_networks(config: Config) -> tuple[IPv4Network, ...]:
    """Where clients can be: what may be learnt, or without BGP all private networks (RFC 1918, RFC 6598)."""
    if config.bgp is not None:
        return tuple(network for network in config.bgp.accept if isinstance(network, IPv4Network))
    return PRIVATE_NETWORKS


def tunnel_device(config: Config, tunnel: Tunnel) -> GreDevice:
    """The GRE device of a Transit Gateway Connect peer."""
    return GreDevice(
        name=config.device_name(tunnel),
        local=tunnel.local,
        remote=tunnel.remote,
        ttl=tunnel.ttl,
        mtu_bytes=tunnel.mtu_bytes,
        addresses=(
            tunnel.inside_interface,
            *(() if tunnel.inside_ipv6_interface is None else (tunnel.inside_ipv6_interface,)),
        ),
    )


def speaker_spec(config: Config) -> SpeakerSpec | None:
    """What gobgpd should be; None without BGP. Two sessions per tunnel, as the Transit Gateway has it."""
    if config.bgp is None:
        return None
    settings = config.bgp
    return SpeakerSpec(
        asn=settings.asn,
        router_id=config.router.id,
        peers=tuple(
            PeerSpec(
                address=neighbor,
                asn=settings.peer_asn,
                local_address=tunnel.inside_interface.ip,
                interface=config.device_name(tunnel),
                description=tunnel.name,
                local_ipv6=None if tunnel.inside_ipv6_interface is None else tunnel.inside_ipv6_interface.ip,
                hold_time_seconds=settings.hold_time_seconds,
                keepalive_seconds=settings.keepalive_seconds,
                connect_retry_seconds=settings.connect_retry_seconds,
            )
            for tunnel in config.tunnels
            for neighbor in tunnel.bgp_neighbors
        ),
        advertisements=tuple(
            Advertisement(prefix, settings.med, settings.prepend) for prefix in settings.advertise
        ),
        accepted=_accepted(settings),
        listen_port=settings.listen_port,
    )


def rib_policy(config: Config) -> RibPolicy:
    """What may be learned."""
    if config.bgp is None:
        return RibPolicy(())
    return RibPolicy(_accepted(config.bgp), max_prefixes=config.bgp.max_prefixes)


def protected_networks(config: Config) -> frozenset[IPv4Network | IPv6Network]:
    """What no learnt route may swallow, caches aside: the Transit Gateway's ends of the tunnels, and our side.

    A route over a tunnel's own end would send the tunnel's packets into the tunnel.
    """
    ends = (ip_network(tunnel.remote) for tunnel in config.tunnels)
    local = config.bgp.local_networks if config.bgp is not None else ()
    return frozenset((*ends, *local))


def advertise_policy(config: Config) -> AdvertisePolicy:
    """When our prefixes are advertised."""
    if config.bgp is None:
        return AdvertisePolicy()
    return AdvertisePolicy(
        AdvertiseWhen(config.bgp.advertise_when.value),
        config.bgp.quorum,
        config.bgp.fail_seconds,
        config.bgp.recover_seconds,
    )


def _accepted(settings: Bgp) -> tuple[PrefixRule, ...]:
    longest = {4: settings.accept_max_length, 6: settings.accept_max_length_ipv6}
    return tuple(
        PrefixRule(network, network.prefixlen, max(network.prefixlen, longest[network.version]))
        for network in settings.accept
    )
