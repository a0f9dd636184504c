"""`wccpctl capture`: needs no daemon of ours, but a host that WCCP passes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from wccpd.ctl.application import Output, OutputFormat, app, fail
from wccpd.exit_codes import ExitCode


@app.command()
def capture(
    device: Annotated[
        str, typer.Option("--device", "-i", metavar="NAME", help="Network device; all if not said.")
    ] = "",
    redirected: Annotated[
        bool, typer.Option("--redirected", help="Also GRE with redirected and returned packets: can be much.")
    ] = False,
    count: Annotated[int, typer.Option("--count", "-c", min=0, help="End after so many.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="End after so long.")] = 0.0,
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Also keep them in a pcap file.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Say whether digests are right for this password.")
    ] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show the WCCP messages that pass this host, in words, until interrupted. JSON is one line each."""
    from contextlib import ExitStack, suppress

    from wccpd import capture as live
    from wccpd import decode

    until = time.monotonic() + seconds if seconds else None
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        try:
            password = password_file.read_bytes().removesuffix(b"\n") if password_file is not None else None
            kept = live.CaptureFile(write) if write is not None else None
        except OSError as error:
            fail(error, ExitCode.CONFIG)
        if kept is not None:
            stack.callback(kept.close)
        try:
            packets = live.capture(device, redirected=redirected, until=until)
            for number, packet in enumerate(packets, start=1):
                now = time.time()
                if kept is not None:
                    kept.write(packet, now)
                for each in filter(None, (decode.decode_ip(packet, number, password),)):
                    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
                    if output is OutputFormat.JSON:
                        shown = {
                            "time": moment,
                            "title": each.title,
                            "fault": each.fault,
                            "content": each.content,
                        }
                        typer.echo(json.dumps(shown))
                    else:
                        typer.echo(f"{moment} {decode.text(each)}\n")
                if number == count:
                    return
        except live.CaptureError as error:
            fail(error, ExitCode.FAILURE)
        except OSError as error:
            fail(f"cannot write {write}: {error.strerror}", ExitCode.FAILURE)
