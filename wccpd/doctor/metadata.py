"""What the EC2 instance metadata service (IMDSv2) says of this instance; asked only where the firmware is Amazon's."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Final

from wccpd.doctor.facts import Ec2Fact

ADDRESS: Final = "169.254.169.254"
PATIENCE_SECONDS: Final = 0.2
_FIRMWARE: Final = (
    Path("/sys/devices/virtual/dmi/id/sys_vendor"),
    Path("/sys/devices/virtual/dmi/id/board_vendor"),
    Path("/sys/hypervisor/uuid"),
)


def is_ec2(files: tuple[Path, ...] = _FIRMWARE) -> bool:
    """Whether the firmware calls itself Amazon's."""
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        if "Amazon EC2" in text or text.startswith("ec2"):
            return True
    return False


def read_metadata(address: str = ADDRESS, port: int = 80) -> Ec2Fact:
    """Ask the service.

    Raises:
        OSError: It does not answer in time, or not as it should.
    """
    connection = http.client.HTTPConnection(address, port, timeout=PATIENCE_SECONDS)
    try:
        token = _get(connection, "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        header = {"X-aws-ec2-metadata-token": token}
        base = "/latest/meta-data"
        instance = _get(connection, "GET", f"{base}/instance-id", header)
        macs = _get(connection, "GET", f"{base}/network/interfaces/macs/", header).split()
        interfaces = tuple(
            _get(connection, "GET", f"{base}/network/interfaces/macs/{mac.strip('/')}/interface-id", header)
            for mac in macs
        )
    finally:
        connection.close()
    return Ec2Fact(instance, interfaces)


def _get(connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> str:
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        text = response.read(1 << 16).decode("ascii", "replace").strip()
    except http.client.HTTPException as error:
        raise OSError(f"the metadata service does not speak HTTP: {type(error).__name__}") from error
    if response.status != http.client.OK:
        raise OSError(f"the metadata service answers {response.status} to {path}")
    return text
