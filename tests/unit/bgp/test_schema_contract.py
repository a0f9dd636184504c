"""Our field table against the .proto files of the GoBGP that Debian ships.

GoBGP 3's are read where golang-github-osrg-gobgp-dev is installed, else out of the package, fetched by apt;
GoBGP 4's where `setup/other-gobgpds` has fetched them.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bgp.schema import METHODS, NUMBERS, STREAMS, Api, field_table

PACKAGE = "golang-github-osrg-gobgp-dev"
PLACE = Path("usr/share/gocode/src/github.com/osrg/gobgp/api")


@dataclass
class Proto:
    """What the files declare; names of nested declarations are joined by dots."""

    fields: dict[str, dict[str, tuple[int, str, bool]]] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    rpcs: dict[str, tuple[str, str, bool]] = field(default_factory=dict)


TOKENS = re.compile(
    r"\s*(?:(?P<open>(?P<what>message|enum|oneof|service)\s+(?P<name>\w+)\s*\{)"
    r"|(?P<rpc>rpc\s+(?P<verb>\w+)\s*\(\s*(?:stream\s+)?(?P<asks>\w+)\s*\)"
    r"\s*returns\s*\(\s*(?P<streams>stream\s+)?(?P<gives>[\w.]+)\s*\)\s*;?)"
    r"|(?P<field>(?P<repeated>repeated\s+)?(?P<type>map<[^>]*>|[\w.]+)\s+(?P<label>\w+)\s*=\s*(?P<number>\d+)[^;{]*;)"
    r"|(?P<value>(?P<key>\w+)\s*=\s*(?P<constant>-?\d+)[^;{]*;)"
    r"|(?P<close>\})|(?P<statement>[^{};]*;))"
)


def parse(text: str, into: Proto) -> None:
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    nest: list[tuple[str, str]] = []
    for token in TOKENS.finditer(text):
        path = ".".join(name for what, name in nest if what != "oneof")
        if token["open"]:
            nest.append((token["what"], token["name"]))
            if token["what"] == "message":
                into.fields.setdefault(".".join(filter(None, (path, token["name"]))), {})
        elif token["close"]:
            nest.pop()
        elif token["rpc"]:
            into.rpcs[token["verb"]] = (
                token["asks"],
                token["gives"].rpartition(".")[2],
                bool(token["streams"]),
            )
        elif nest and nest[-1][0] == "enum" and token["value"]:
            into.enums.setdefault(path, {})[token["key"]] = int(token["constant"])
        elif token["field"] and nest:
            into.fields[path][token["label"]] = (int(token["number"]), token["type"], bool(token["repeated"]))
    assert not nest, "the parser lost its way"


FETCHED = Path(__file__).resolve().parents[3] / "build" / "gobgpd"


@pytest.fixture(scope="module", params=list(Api), ids=str)
def api(request: pytest.FixtureRequest) -> Api:
    chosen: Api = request.param
    return chosen


@pytest.fixture(scope="module")
def proto(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Proto:
    if api is Api.V4:
        folders = sorted(FETCHED.glob("4.*"))
        if not folders:
            pytest.skip(
                "no .proto files of GoBGP 4 here: setup/other-gobgpds fetches them where apt reaches them"
            )
        found = Proto()
        for path in sorted(folders[-1].glob("*.proto")):
            parse(path.read_text(), found)
        assert len(found.fields) > 150
        assert len(found.rpcs) > 40
        return found
    folder = Path("/") / PLACE
    if not folder.exists():
        root = tmp_path_factory.mktemp("gobgp-dev")
        folder = root / "unpacked" / PLACE
        try:
            subprocess.run(
                ["apt-get", "download", PACKAGE], cwd=root, check=True, capture_output=True, timeout=60
            )
            (package,) = root.glob("*.deb")
            subprocess.run(
                ["dpkg", "-x", package, root / "unpacked"], check=True, capture_output=True, timeout=60
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            pytest.skip(f"{PACKAGE} cannot be had: {error}")
    found = Proto()
    for name in ("gobgp.proto", "attribute.proto"):
        parse((folder / name).read_text(), found)
    assert len(found.fields) > 150
    assert len(found.rpcs) > 40
    return found


def plain(name: str) -> str:
    return name.replace("_", "").lower()


OUR_OWN = {"Empty", "Timestamp", "Any"}
"""Well-known types, which GoBGP takes from google.protobuf."""


def value(enums: dict[str, int], enum: str, name: str) -> int:
    """An enum's value; GoBGP 4 puts the enum's name before it."""
    leaf = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.rpartition(".")[2]).upper()
    return enums[name] if name in enums else enums[f"{leaf}_{name}"]


def test_every_field_has_gobgps_number_and_type(proto: Proto, api: Api) -> None:
    checked = 0
    enums = {name.rpartition(".")[2] for name in proto.enums}
    for message, fields in field_table(api).items():
        if message in OUR_OWN:
            continue
        declared = {plain(name): rest for name, rest in proto.fields[message].items()}
        for each in fields:
            number, kind, repeated = declared[plain(each.name)]
            leaf = kind.rpartition(".")[2]
            expected = "uint32" if leaf in enums else leaf
            found = (each.number, each.kind.rpartition(".")[2], each.repeated)
            assert found == (number, expected, repeated), f"{message}.{each.name}"
            checked += 1
    assert checked > 100


def test_every_call_has_gobgps_request_and_answer(proto: Proto, api: Api) -> None:
    for streams, table in ((False, METHODS), (True, STREAMS)):
        for verb, (asks, gives) in table.items():
            answer = f"{verb}Response" if api is Api.V4 and gives == "Empty" else gives
            assert proto.rpcs[verb] == (asks, answer, streams), verb


@pytest.mark.parametrize(
    ("ours", "enum", "theirs"),
    [
        ("table_global", "TableType", "GLOBAL"),
        ("table_adj_in", "TableType", "ADJ_IN"),
        ("defined_neighbor", "DefinedType", "NEIGHBOR"),
        ("filter_post_policy", "WatchEventRequest.Table.Filter.Type", "POST_POLICY"),
        ("match_any", "MatchSet.Type", "ANY"),
        ("defined_prefix", "DefinedType", "PREFIX"),
        ("admin_up", "PeerState.AdminState", "UP"),
        ("reset_both", "ResetPeerRequest.SoftResetDirection", "BOTH"),
        ("accept", "RouteAction", "ACCEPT"),
        ("reject", "RouteAction", "REJECT"),
        ("direction_import", "PolicyDirection", "IMPORT"),
        ("direction_export", "PolicyDirection", "EXPORT"),
        ("route_local", "Conditions.RouteType", "ROUTE_TYPE_LOCAL"),
        ("segment_set", "AsSegment.Type", "AS_SET"),
        ("segment_sequence", "AsSegment.Type", "AS_SEQUENCE"),
        ("peer_event_end_of_init", "WatchEventResponse.PeerEvent.Type", "END_OF_INIT"),
    ],
)
def test_every_enum_value_is_gobgps(proto: Proto, api: Api, ours: str, enum: str, theirs: str) -> None:
    if api is Api.V4:
        enum = enum.replace("SoftResetDirection", "Direction")
    assert getattr(NUMBERS[api], ours) == value(proto.enums[enum], enum, theirs)
