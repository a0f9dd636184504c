"""Configuration files that people, editors and programs break, each by a name that says how."""

from __future__ import annotations

GOOD = """\
router:
  id: 10.100.1.10
tunnels:
  - name: tgw-a
    remote: 10.99.0.1
    inside: 169.254.6.0/29
bgp:
  asn: 65010
  peer_asn: 64512
services:
  - service: web-cache
    group_list: [10.100.1.0/24]
"""
MANY_ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def replaced(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def dynamic(setting: str) -> str:
    """A good file with a second service that has one more setting."""
    return GOOD + f"  - service: 90\n    group_list: [10.100.1.0/24]\n    {setting}\n"


BROKEN: dict[str, str | bytes] = {
    "tab as indentation": replaced("  id:", "\tid:"),
    "tab behind a key": replaced("id: 10", "id:\t10"),
    "tab before a list item": replaced("  - name", "\t- name"),
    "colon without a blank": replaced("asn: 65010", "asn:65010"),
    "indentation one too deep": replaced("    remote", "     remote"),
    "indentation one too shallow": replaced("    remote", "   remote"),
    "dash without a blank": replaced("- name: tgw-a", "-name: tgw-a"),
    "dash forgotten": replaced("  - service", "    service"),
    "quote never closed": replaced("tgw-a", '"tgw-a'),
    "single quote never closed": replaced("tgw-a", "'tgw-a"),
    "bracket never closed": replaced("[10.100.1.0/24]", "[10.100.1.0/24"),
    "brace for a bracket": replaced("[10.100.1.0/24]", "{10.100.1.0/24}"),
    "IPv6 address in a list without quotes": replaced("64512", "64512\n  advertise: [::/0]"),
    "comma at a loss": replaced("[10.100.1.0/24]", "[10.100.1.0/24 10.100.2.0/24]"),
    "list without brackets": replaced("[10.100.1.0/24]", "10.100.1.0/24, 10.100.2.0/24"),
    "equals sign for a colon": replaced("asn: 65010", "asn = 65010"),
    "at sign begins a value": replaced("tgw-a", "@tgw"),
    "percent sign begins a value": replaced("tgw-a", "%tgw"),
    "star begins a value": replaced("tgw-a", "*"),
    "escape that YAML does not know": replaced("tgw-a", '"tgw\\q"'),
    "same key twice": replaced("peer_asn: 64512", "asn: 65011\n  peer_asn: 64512"),
    "same section twice": GOOD + "router:\n  id: 10.100.1.11\n",
    "same key in one line twice": GOOD + "log: {level: info, level: debug}\n",
    "merge key": GOOD.replace("- name: tgw-a", "- &first\n    name: tgw-a").replace(
        "bgp:", "  - <<: *first\n    name: tgw-b\nbgp:"
    ),
    "anchor that nobody set": replaced("65010", "*ours"),
    "alias inside itself": replaced("[10.100.1.0/24]", "&x [*x]"),
    "tag of Python": replaced("65010", "!!python/object/apply:os.system [id]"),
    "tag of a float": replaced("65010", "!!float 65010"),
    "own tag": replaced("65010", "!vault abc"),
    "number as a key": GOOD + "80: x\n",
    "list as a key": GOOD + "? [a]\n: x\n",
    "null as a key": GOOD + "~: x\n",
    "two documents": GOOD + "---\n" + GOOD,
    "directive of a YAML to come": "%YAML 3.0\n---\n" + GOOD,
    "text in several lines": replaced("tgw-a", "|\n      tgw\n      a"),
    "control character": replaced("tgw-a", "tgw\x07a"),
    "unprintable in a value": replaced("tgw-a", '"tgw\\u202e"'),
    "not UTF-8": GOOD.encode().replace(b"tgw-a", b"tgw-\xe4"),
    "UTF-16": GOOD.encode("utf-16"),
    "binary": bytes(range(256)),
    "nothing": "",
    "only a comment": "# to be written\n",
    "only a document marker": "---\n",
    "one word": "router\n",
    "JSON with a comma too many": '{"router": {"id": "10.100.1.10"},,}',
    "an INI file": "[router]\nid = 10.100.1.10\n",
    "too large": "#" * 300_000,
    "too many values": GOOD + "caches:\n" + "  - {network: 10.0.0.0/8, zone: a}\n" * 4_000,
    "nested too deep": GOOD + "log: " + "[" * 1000,
    "nested mappings too deep": GOOD + "log: " + "{a: " * 1000,
    "billion laughs": MANY_ALIASES + GOOD,
    "YAML boolean that is text, no": dynamic("affinity: no"),
    "YAML boolean that is text, on": dynamic("fallthrough: on"),
    "True in capitals": dynamic("prefer_zone: True"),
    "truth in quotes": dynamic('affinity: "true"'),
    "number for truth": dynamic("affinity: 1"),
    "octal number": replaced("asn: 65010", "asn: 065010"),
    "hexadecimal number": GOOD + "kernel: {mark_shift: 0x8}\n",
    "number with thousands": replaced("64512", "64512\n  max_prefixes: 10,000"),
    "number with underscores": replaced("64512", "64512\n  max_prefixes: 10_000"),
    "number with its unit": replaced("64512", "64512\n  hold_time_seconds: 30s"),
    "fraction": replaced("64512", "64512\n  hold_time_seconds: 30.5"),
    "number beyond 64 bits": replaced("65010", "99999999999999999999999"),
    "negative number": replaced("65010", "-1"),
    "AS number with a dot": replaced("65010", "1.10"),
    "AS number with AS": replaced("65010", "AS65010"),
    "address with a leading zero": replaced("10.100.1.10", "10.100.001.10"),
    "address of three parts": replaced("10.100.1.10", "10.100.1"),
    "address with its prefix length": replaced("10.100.1.10", "10.100.1.10/24"),
    "name for an address": replaced("10.100.1.10", "router.example.net"),
    "IPv6 for the Router ID": replaced("10.100.1.10", "2001:db8::1"),
    "netmask": replaced("10.100.1.0/24", "10.100.1.0/255.255.255.0"),
    "wildcard of Cisco": dynamic("redirect_list: [{action: permit, sources: [10.1.0.0/0.0.255.255]}]"),
    "prefix length of 33": replaced("10.100.1.0/24", "10.100.1.0/33"),
    "host bits": replaced("10.100.1.0/24", "10.100.1.21/24"),
    "list where one value belongs": replaced("id: 10.100.1.10", "id: [10.100.1.10]"),
    "mapping where one value belongs": replaced("id: 10.100.1.10", "id: {address: 10.100.1.10}"),
    "one value where a list belongs": replaced("[10.100.1.0/24]", "10.100.1.0/24"),
    "list where a mapping belongs": GOOD.replace("router:\n  id", "router:\n  - id"),
    "mapping where a list belongs": GOOD.replace(
        "  - service: web-cache\n    group", "  service: web-cache\n  group"
    ),
    "names as keys where a list belongs": GOOD.replace(
        "  - service: web-cache\n    group_list", "  web-cache:\n    group_list"
    ),
    "text where a mapping belongs": GOOD + "kernel: default\n",
    "text where a mapping belongs in a list": replaced(
        "  - name: tgw-a\n    remote: 10.99.0.1\n    inside: 169.254.6.0/29", "  - tgw-a"
    ),
    "key without a value": GOOD + "caches:\n",
    "null for a value": replaced("[10.100.1.0/24]", "null"),
    "empty text": replaced("tgw-a", '""'),
    "very long text": replaced("tgw-a", "x" * 5_000),
    "port as text": dynamic("match: {ports: [https]}"),
    "port of 65536": dynamic("match: {ports: [65536]}"),
    "web_cache with an underscore": replaced("web-cache", "web_cache"),
    "service number in quotes": replaced("web-cache", '"90"'),
    "mode in capitals": dynamic("mode: OPEN"),
    "mode by Cisco's word": dynamic("mode: close"),
    "method in capitals": dynamic("forwarding: [GRE]"),
    "method that is no list": dynamic("forwarding: l2"),
    "unknown key at the top": GOOD + "service: []\n",
    "unknown key at the top that resembles nothing": GOOD + "xyzzy: 1\n",
    "unknown key of the router": replaced("id: 10", "router_id: 10"),
    "unknown key of a tunnel": replaced("remote:", "remote_address:"),
    "unknown key of BGP": replaced("  asn:", "  as:"),
    "unknown key with a hyphen": replaced("peer_asn", "peer-asn"),
    "unknown key in capitals": replaced("router:", "Router:"),
    "unknown key of a service": dynamic("redirect-list: []"),
    "unknown key of a line": dynamic("redirect_list: [{action: permit, source: [10.0.0.0/8]}]"),
    "unknown key of a match": dynamic("match: {port: 443}"),
    "unknown key of interop": dynamic("interop: {minor: 1}"),
    "unknown key of redirect": GOOD + "redirect: {interface: ens6}\n",
    "unknown key of a cache": GOOD + "caches: [{address: 10.1.1.1, zone: a}]\n",
    "unknown key of kernel": GOOD + "kernel: {table: 100}\n",
    "unknown key of log": GOOD + "log: {levle: debug}\n",
    "unknown key of control": GOOD + "control: {port: 80}\n",
    "key of another section": GOOD + "    hold_time_seconds: 30\n",
    "password in the file": GOOD + "    password: hunter22\n",
    "password as a number in the file": GOOD + "    password: 12345678\n",
    "password in place of a variable's name": GOOD + "    password_environment: hunter-22\n",
    "password in place of a variable's name, which could be one": GOOD
    + "    password_environment: hunter22\n",
    "password in place of a credential's name": GOOD + "    password_credential: hunter/22\n",
    "two places for one password": GOOD
    + "    password_environment: WCCP_TEST_A\n    password_credential: b\n",
    "previous password alone": GOOD + "    previous_password_environment: WCCP_TEST_A\n",
    "nobody may join and everybody": GOOD.replace("    group_list: [10.100.1.0/24]\n", ""),
    "closed without a definition": dynamic("mode: closed"),
    "list of denials alone": dynamic("redirect_list: [{action: deny}]"),
    "the same service twice": GOOD + "  - service: web-cache\n    group_list: [10.0.0.0/8]\n",
    "iBGP": replaced("65010", "64512"),
    "keepalives too rare": replaced("64512", "64512\n  hold_time_seconds: 10"),
    "tunnels of different IP versions": replaced("10.99.0.1", '"2001:db8::1"'),
    "our own address as the other end": replaced("10.99.0.1", "10.100.1.10"),
    "zone of nobody": dynamic("prefer_zone: true"),
    "DF by a plane that cannot": GOOD + "redirect: {dataplane: ebpf, clear_df: true}\n",
    "nothing comes in": GOOD[: GOOD.index("tunnels:")] + GOOD[GOOD.index("services:") :],
    "IPv6 to advertise without IPv6 inside": replaced("64512", '64512\n  advertise: ["::/0"]'),
    "everything at once": """\
routr: {id: 10.100.1.10}
tunnels:
  - {name: tgw-a, remote: 10.99.0.1, inside: 10.0.0.0/8, mtu: 9001}
bgp: {asn: 64512, peer_asn: 64512, hold_time_seconds: 5}
services:
  - service: webcache
  - {service: 90, mode: closed, group_list: [10.0.0.0/8]}
""",
}
