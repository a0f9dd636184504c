"""What someone who is to help from afar must see, in one archive without passwords: `wccpctl tech-support`.

Each part is asked for by itself; one that cannot be had says why in its own file and keeps none of the others back.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from wccpd.status import client

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from config import Config

COMMAND_SECONDS = 5.0
"""How long each command of the host may take."""
LOG_LINES = 2000
MAX_PART_BYTES = 8 * 1024 * 1024
"""The end of what is longer is kept."""
HIDDEN = b"[hidden]"
MIN_HIDDEN_OCTETS = 3
"""Shorter passwords are in every text by chance; no part has them from the configuration."""

RESOURCES = {
    "status.json": "/v1/status",
    "events.json": "/v1/events/recent",
    "flows.json": "/v1/flows",
    "daemon.json": "/v1/version",
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "ip-link.txt": ("ip", "-details", "-statistics", "link", "show"),
    "ip-address.txt": ("ip", "address", "show"),
    "ip-rule.txt": ("ip", "rule", "show"),
    "ip-route.txt": ("ip", "route", "show", "table", "all"),
    "ip6-route.txt": ("ip", "-6", "route", "show", "table", "all"),
    "ip-neighbour.txt": ("ip", "neighbour", "show"),
    "nft-tables.txt": ("nft", "list", "tables"),
    "sockets.txt": ("ss", "-ulnp"),
    "journal-wccpd.txt": ("journalctl", "-u", "wccpd", "-n", str(LOG_LINES), "--no-pager", "-o", "short-iso"),
    "journal-gobgpd.txt": ("journalctl", "-u", "gobgpd-wccpd", "-n", str(LOG_LINES), "--no-pager"),
    "units.txt": ("systemctl", "status", "--no-pager", "wccpd", "gobgpd-wccpd"),
}
FILES = {
    "os-release.txt": "/etc/os-release",
    "kernel.txt": "/proc/version",
    "modules.txt": "/proc/modules",
    "memory.txt": "/proc/meminfo",
    "snmp.txt": "/proc/net/snmp",
    "netstat.txt": "/proc/net/netstat",
    "conntrack-statistics.txt": "/proc/net/stat/nf_conntrack",
}
SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv4/fib_multipath_hash_policy",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_buckets",
)
LIBRARIES = (
    "aiohttp",
    "grpcio",
    "pip-nftables",
    "protobuf",
    "pydantic",
    "pyroute2",
    "scapy",
    "structlog",
    "typer",
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was gathered."""

    parts: Mapping[str, bytes]
    """File name -> content."""
    missing: tuple[str, ...]
    """Names of those that only say why they are not there."""


def gather(socket_path: Path, config_file: Path | None = None) -> Bundle:
    """Ask the daemon and the host for everything.

    Args:
        socket_path: the control socket; parts of a daemon that does not run are missing.
        config_file: the configuration; where the daemon says that it is, if left out.
    """
    parts: dict[str, bytes] = {}
    missing: list[str] = []

    def take(name: str, content: bytes | None, why: str = "") -> None:
        if content is None:
            missing.append(name)
        parts[name] = (f"not there: {why}\n".encode() if content is None else content)[-MAX_PART_BYTES:]

    for name, resource in RESOURCES.items():
        take(name, *_asked(socket_path, resource))
    config, why = _config(config_file or _config_of(parts["status.json"]))
    take("config.json", _redacted(config) if config is not None else None, why)
    table = config.kernel.nft_table if config is not None else "wccpd"
    for name, command in {**COMMANDS, "nft-table.txt": ("nft", "list", "table", "ip", table)}.items():
        take(name, *_ran(command))
    for name, file in FILES.items():
        take(name, *_file(Path(file)))
    take("sysctl.txt", "".join(_sysctls()).encode())
    take("versions.txt", "".join(_versions()).encode())
    hidden = _passwords(config) if config is not None else ()
    return Bundle({name: _hide(content, hidden) for name, content in parts.items()}, tuple(missing))


def write(bundle: Bundle, path: Path) -> None:
    """Put it into a gzipped tar archive that only its owner may read.

    Raises:
        OSError: it cannot be written, or is there already.
    """
    folder = path.name.partition(".")[0]
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(opened, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in bundle.parts.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))


def _asked(socket_path: Path, resource: str) -> tuple[bytes | None, str]:
    try:
        return json.dumps(client.fetch(socket_path, resource), indent=2).encode(), ""
    except (client.UnreachableError, client.RefusedError) as error:
        return None, str(error)


def _ran(command: tuple[str, ...]) -> tuple[bytes | None, str]:
    """What a command says, with its complaints."""
    program = shutil.which(command[0])
    if program is None:
        return None, f"there is no {command[0]} on this host"
    try:
        done = subprocess.run(  # noqa: S603 - our own list of commands
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"{' '.join(command)} took over {COMMAND_SECONDS:g} s"
    except OSError as error:
        return None, f"{' '.join(command)}: {error.strerror}"
    return b"# " + " ".join(command).encode() + b"\n" + done.stdout, ""


def _file(path: Path) -> tuple[bytes | None, str]:
    try:
        return path.read_bytes(), ""
    except OSError as error:
        return None, f"{path}: {error.strerror}"


def _sysctls() -> Iterator[str]:
    for name in SYSCTLS:
        content, why = _file(Path("/proc/sys") / name)
        value = content.decode().strip() if content is not None else f"not there ({why})"
        yield f"{name.replace('/', '.')} = {value}\n"


def _versions() -> Iterator[str]:
    from wccpd import __version__  # noqa: PLC0415 - beside the others

    yield f"wccpctl {__version__}\npython {sys.version.split()[0]}\n"
    for library in LIBRARIES:
        try:
            yield f"{library} {metadata.version(library)}\n"
        except metadata.PackageNotFoundError:
            yield f"{library} not installed\n"


def _config_of(status: bytes) -> Path | None:
    try:
        return Path(json.loads(status)["router"]["config_file"])
    except (ValueError, KeyError, TypeError):
        return None


def _config(path: Path | None) -> tuple[Config | None, str]:
    """The configuration as it is on the disk now."""
    if path is None:
        return None, "the daemon does not say where it is: name it with --config"
    import config  # noqa: PLC0415 - slow to import

    try:
        return config.load(path), ""
    except config.ConfigError as error:
        return None, f"{path} has errors:\n{error}"


def _redacted(settings: Config) -> bytes:
    import config  # noqa: PLC0415 - slow to import

    return json.dumps(config.redacted(settings), indent=2).encode()


def _passwords(settings: Config) -> tuple[bytes, ...]:
    secrets = (
        secret
        for service in settings.services
        for secret in (service.password, service.previous_password)
        if secret is not None
    )
    found = {secret.get_secret_value() for secret in secrets}
    return tuple(sorted((each for each in found if len(each) >= MIN_HIDDEN_OCTETS), key=len, reverse=True))


def _hide(content: bytes, hidden: tuple[bytes, ...]) -> bytes:
    """Whatever a command or a log may say: no password of ours leaves the host."""
    for secret in hidden:
        content = content.replace(secret, HIDDEN)
    return content
