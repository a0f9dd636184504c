"""Configuration texts of the programs that run in the lab: BIRD, Squid, nftables on hosts, wccpd.

Pure: data in, text out. Who starts what, and where files lie, is the business of `laboratory`.
"""

from pathlib import Path

from lab.topology import ROUTER_ASN, SPOKE_NETWORKS, TGW_ASN, Proxy, Router, Topology

SQUID_HTTP_INTERCEPT_PORT = 3129
SQUID_HTTPS_INTERCEPT_PORT = 3130
SQUID_FORWARD_PORT = 3128
BYPASSED_PORT = 8080
"""The origin answers here too, and no service group asks for it."""


def speaker_configuration(topology: Topology, speaker: int, kernel_table: int) -> str:
    """BIRD as one of the Transit Gateway's two BGP speakers (0 or 1), for the tunnels of all routers.

    Like the real thing: passive, eBGP multihop with TTL 2, hold 30, no graceful restart, and it announces
    to a router the default that came from a router. That one must be refused, so it is there from the start, with
    the routers' ASN in its path.
    """
    spokes = "\n".join(f"    route {network} blackhole;" for network in SPOKE_NETWORKS)
    peers = "\n".join(_peer_configuration(router, speaker) for router in topology.routers)
    return f"""\
log stderr all;
router id {topology.routers[0].speakers[speaker]};
ipv4 table attachment;

protocol device {{ scan time 2; }}

# Only what BGP's next hops need: the spokes' subnets must come from the static protocol, which announces.
protocol direct {{
  ipv4 {{ table attachment; }};
  interface "gre-*";
}}

# The propagated routes of the Spoke VPCs, and the default that loops back.
protocol static announced {{
  ipv4 {{ table attachment; }};
{spokes}
  route 0.0.0.0/0 blackhole;
}}

protocol pipe {{
  table master4;
  peer table attachment;
  import where source = RTS_BGP;
  export none;
}}

protocol kernel {{
  kernel table {kernel_table};
  merge paths on;
  ipv4 {{ import none; export where source = RTS_BGP; }};
}}

template bgp router_session {{
  local as {TGW_ASN};
  strict bind yes;
  passive yes;
  multihop 2;
  hold time 30;
  keepalive time 10;
  graceful restart off;
  ipv4 {{
    table attachment;
    igp table attachment;
    import all;
    export filter {{
      if proto != "announced" then reject;
      if net = 0.0.0.0/0 then bgp_path.prepend({ROUTER_ASN});
      bgp_med = 100;
      accept;
    }};
  }};
}}

{peers}
"""


def _peer_configuration(router: Router, speaker: int) -> str:
    return f"""\
protocol bgp {router.name} from router_session {{
  local {router.speakers[speaker]} as {TGW_ASN};
  neighbor {router.inside_address} as {ROUTER_ASN};
}}
"""


def squid_configuration(
    topology: Topology, proxy: Proxy, directory: Path, password: str, certificate: Path
) -> str:
    """Stock Squid as intercepting proxy: GRE forwarding and return, hash assignment, two service groups.

    HTTPS is spliced, never decrypted: Squid sees addresses and passes the bytes on.
    """
    routers = "\n".join(f"wccp2_router {router.address}" for router in topology.routers)
    https_options = f"generate-host-certificates=off tls-cert={certificate}"
    return f"""\
visible_hostname {proxy.name}
http_port {proxy.address}:{SQUID_FORWARD_PORT}
http_port {SQUID_HTTP_INTERCEPT_PORT} intercept
https_port {SQUID_HTTPS_INTERCEPT_PORT} intercept ssl-bump {https_options}
ssl_bump splice all
http_access allow all
cache deny all
cache_mem 8 MB
max_filedescriptors 1024
cache_effective_user proxy
cache_effective_group proxy
pid_filename {directory}/squid.pid
access_log stdio:{directory}/access.log
cache_log {directory}/cache.log
coredump_dir {directory}
dns_nameservers 127.0.0.1
pinger_enable off
shutdown_lifetime 1 second

{routers}
wccp2_address {proxy.address}
wccp2_forwarding_method gre
wccp2_return_method gre
wccp2_assignment_method hash
wccp2_service standard 0 password={password}
wccp2_service dynamic 70 password={password}
wccp2_service_info 70 protocol=tcp flags=src_ip_hash priority=240 ports=443
"""


def proxy_ruleset(proxy: Proxy) -> str:
    """Nftables on a proxy: what arrives in GRE goes to Squid's intercept ports.

    `redirect` would need an address on the GRE device; `dnat` to the proxy's own does not.
    """
    return f"""\
table ip interception {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    iifname "wccp*" tcp dport 80 dnat to {proxy.address}:{SQUID_HTTP_INTERCEPT_PORT}
    iifname "wccp*" tcp dport 443 dnat to {proxy.address}:{SQUID_HTTPS_INTERCEPT_PORT}
  }}
}}
"""


def firewall_ruleset() -> str:
    """Nftables on the firewall: stateful, the web and ping may leave."""
    return f"""\
table ip firewall {{
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "subnet" oifname "nat" tcp dport {{ 80, 443, {BYPASSED_PORT} }} accept
    iifname "subnet" oifname "nat" icmp type echo-request accept
  }}
}}
"""


def nat_ruleset() -> str:
    """Nftables on the NAT gateway."""
    return """\
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname "internet" masquerade
  }
}
"""


CANARY = "192.0.2.1"
"""Nobody's: only a proxy that intercepts can answer for it."""


def wccpd_configuration(topology: Topology, router: Router, directory: Path, password_file: Path) -> str:
    """A wccpd configuration file for one router of the lab."""
    number = topology.routers.index(router) + 1
    return f"""\
router:
  id: {router.address}
tunnels:
  - name: tgw-{number}
    local: {router.address}
    remote: {router.tgw_address}
    inside: {router.inside}
bgp:
  asn: {ROUTER_ASN}
  peer_asn: {TGW_ASN}
  gobgp_socket: {directory}/gobgpd.sock
  accept: [10.0.0.0/8]
services:
  - service: web-cache
    password_file: {password_file}
    group_list: [10.100.1.0/24]
  - service: 70
    password_file: {password_file}
    group_list: [10.100.1.0/24]
    probe: {{canary: {CANARY}, canary_port: 443, interval_milliseconds: 2000, timeout_milliseconds: 10000}}
redirect:
  lease_seconds: 300  # in the VM a daemon takes over half a minute to start
control:
  socket: {directory}/control.sock
state_directory: {directory}/state
"""
