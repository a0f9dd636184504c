"""Run the tests marked `gre` in a virtual machine when this kernel cannot make GRE devices.

The selected `gre` tests are put last. At the start of the session one VM is booted in the background and runs them
with a pytest of its own, which writes every test report as a line of JSON into the shared folder. When the session
here comes to such a test, it waits for its reports and passes them on as if the test had run here. Should the VM
fail, every test that it owes fails with the reason.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.errors import LabError
from lab.vm import IN_VM, REPOSITORY, VirtualMachine, guest_kernel, kernel_has_gre

REPORTS = "WCCPD_VM_REPORTS"
VM_TIMEOUT_SECONDS = 3000
POLL_SECONDS = 0.3


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(IN_VM) and REPORTS in os.environ:
        config.pluginmanager.register(ReportWriter(config, Path(os.environ[REPORTS])))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=needs_gre)


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = [item for item in session.items if needs_gre(item)]
    if not wanted or session.config.option.collectonly or os.environ.get(IN_VM) or kernel_has_gre():
        return
    run = VmRun(session.config, wanted)
    session.config.pluginmanager.register(run, "wccpd-vm-run")
    run.start()


def needs_gre(item: pytest.Item) -> bool:
    return item.get_closest_marker("gre") is not None


class ReportWriter:
    """In the guest: writes every report to the file that the host reads."""

    def __init__(self, config: pytest.Config, file: Path) -> None:
        self._config = config
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._file.open("a") as file:
            file.write(json.dumps(data, default=repr) + "\n")


class VmRun:
    """On the host: the VM that runs the `gre` tests of one session."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self._config = config
        self._nodeids = [item.nodeid for item in items]
        build = REPOSITORY / "build"
        build.mkdir(exist_ok=True)
        self._share = Path(tempfile.mkdtemp(prefix="vm-tests-", dir=build))
        self._reports_file = self._share / "reports.jsonl"
        self._console = self._share / "console.log"
        self._reports: dict[str, list[pytest.TestReport]] = {}
        self._lines_read = 0
        self._failure = ""
        self._failure_told = False
        self._ended = threading.Event()
        self._machine = self._make_machine()

    def _make_machine(self) -> VirtualMachine:
        selection = self._share / "selection"
        selection.write_text("\n".join(self._nodeids) + "\n")
        self._reports_file.touch()
        pytest_command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", f"@{selection}"]
        command = ["env", f"{REPORTS}={self._reports_file}", *pytest_command]
        return VirtualMachine(command, self._share, VM_TIMEOUT_SECONDS, self._keep_output)

    def _keep_output(self, chunk: bytes) -> None:
        with self._console.open("ab") as console:
            console.write(chunk)

    def start(self) -> None:
        try:
            self._machine.start()
        except LabError as error:
            self._failure = str(error)
            self._ended.set()
            return
        self._say(
            f"this kernel cannot make GRE devices: {len(self._nodeids)} tests run in a VM with Linux {guest_kernel()}"
        )
        threading.Thread(target=self._wait, name="vm-wait", daemon=True).start()

    def _wait(self) -> None:
        try:
            status = self._machine.wait()
            self._failure = f"pytest in the VM ended with exit status {status} without running this test"
        except LabError as error:
            self._failure = str(error)
        finally:
            self._ended.set()

    def _say(self, text: str) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write_line(text)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if item.nodeid not in self._nodeids:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports_of(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports_of(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        while True:
            # Asked first: what was written before the end is then surely read.
            ended = self._ended.wait(POLL_SECONDS)
            self._read_reports()
            reports = self._reports.get(item.nodeid, [])
            if reports and reports[-1].when == "teardown":
                yield from reports
                return
            if ended:
                yield from reports
                yield self._failure_report(item)
                return

    def _read_reports(self) -> None:
        lines = self._reports_file.read_text().split("\n")[:-1]
        for line in lines[self._lines_read :]:
            report = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=_restored(line)
            )
            self._reports.setdefault(report.nodeid, []).append(report)
        self._lines_read = len(lines)

    def _failure_report(self, item: pytest.Item) -> pytest.TestReport:
        if self._failure_told:
            return self._failed(item, f"{self._failure}; the first such failure shows the VM's output")
        self._failure_told = True
        console = self._console.read_text(errors="replace") if self._console.exists() else ""
        tail = "\n".join(console.splitlines()[-40:])
        return self._failed(item, f"{self._failure}\n--- the end of {self._console}:\n{tail}")

    @staticmethod
    def _failed(item: pytest.Item, reason: str) -> pytest.TestReport:
        return pytest.TestReport(item.nodeid, item.location, {}, "failed", reason, "call")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._machine.stop()
        if exitstatus == 0:
            shutil.rmtree(self._share, ignore_errors=True)
        else:
            self._say(f"\nwhat the VM wrote: {self._share}")


def _restored(line: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(line)
    # The reason of a skip is a tuple for pytest, which JSON does not know.
    if isinstance(data.get("longrepr"), list):
        data["longrepr"] = tuple(data["longrepr"])
    return data
