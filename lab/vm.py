"""Run a command in a virtual machine whose kernel has GRE devices, where the running kernel has none.

The guest is Debian's own kernel under QEMU without KVM, started by virtme-ng. It sees this machine's root file
system read-only and can write in one shared folder alone. Its exit status comes through that folder.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

from lab.errors import LabError, wait_until

IN_VM = "WCCPD_IN_VM"
"""Environment variable that marks the guest."""

BOOT_TIMEOUT_SECONDS = 240
REPOSITORY = Path(__file__).resolve().parent.parent
_SHELL_PORT = "wccpd.shell"
_NOT_FOR_THE_GUEST = (
    *("*/mypy", "*/mypyc", "*__mypyc*.so", "*/ruff", "*/pip", "*/piptools", "*/virtme", "*/virtme_ng"),
    *("*.opt-?.pyc", "*/python3*/test", "*/python3*/config-3*", "*/python3*/idlelib", "*/python3*/lib2to3"),
)


def _python_libraries() -> list[str]:
    paths = sysconfig.get_paths()
    return sorted({paths["stdlib"], paths["purelib"]})


@cache
def kernel_has_gre() -> bool:
    """Whether this kernel can make GRE devices; tried in a network namespace that ends with the attempt."""
    attempt = ["ip", "link", "add", "gre-probe", "type", "gre", "local", "127.0.0.1", "remote", "127.0.0.2"]
    done = subprocess.run(["unshare", "--net", *attempt], capture_output=True, text=True, check=False)
    return done.returncode == 0


def guest_kernel() -> str:
    """Release of the newest installed kernel that can be the guest's.

    Raises:
        LabError: none is installed.
    """
    releases = [
        image.name.removeprefix("vmlinuz-")
        for image in Path("/boot").glob("vmlinuz-*")
        if list(
            Path("/lib/modules", image.name.removeprefix("vmlinuz-"), "kernel/net/ipv4").glob("ip_gre.ko*")
        )
        and list(Path("/lib/modules", image.name.removeprefix("vmlinuz-"), "kernel/fs/9p").glob("9p.ko*"))
    ]
    if not releases:
        raise LabError("no kernel with ip_gre and 9p below /boot and /lib/modules: run `make setup`")
    return max(releases, key=lambda release: [int(number) for number in re.findall(r"\d+", release)])


class VirtualMachine:
    """One guest that runs one command."""

    def __init__(
        self,
        command: list[str],
        share: Path,
        timeout_seconds: float,
        output: Callable[[bytes], object],
        shell: bool = False,
    ) -> None:
        """Prepare a guest that runs `command` in the repository's folder.

        Args:
            command: the command and its arguments.
            share: existing folder, the only place that the guest shares for writing.
            timeout_seconds: after so long the command is ended, and the guest with it.
            output: called in a thread of its own with what the guest prints, as it comes.
            shell: whether `enter` shall work.
        """
        self.share = share
        self._timeout_seconds = timeout_seconds
        self._output = output
        self._command = command
        self._shell = shell
        self._process: subprocess.Popen[bytes] | None = None
        self._relay: threading.Thread | None = None

    def start(self) -> None:
        """Boot the guest; returns at once.

        Raises:
            LabError: a program or a kernel is missing.
        """
        vng = shutil.which("vng", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if vng is None or shutil.which("qemu-system-x86_64") is None:
            raise LabError("the virtual machine needs virtme-ng and qemu-system-x86: run `make setup`")
        kernel = guest_kernel()
        # The guest cannot write compiled modules, and compiling is slow there.
        packages = [str(REPOSITORY / name) for name in ("wccpd", "bgp", "gre", "config", "lab")]
        subprocess.run(
            [sys.executable, "-m", "compileall", "-q", *packages], capture_output=True, check=False
        )
        self._pack_python()
        for name in ("booted", "exit-status"):
            (self.share / name).unlink(missing_ok=True)
        script = self.share / "guest.sh"
        script.write_text(self._guest_script())
        shell = f"-chardev socket,id=shell,path={self.share}/shell.sock,server=on,wait=off"
        port = f"-device virtio-serial-pci -device virtserialport,name={_SHELL_PORT},chardev=shell"
        self._process = subprocess.Popen(
            [
                *(vng, "--run", kernel, "--disable-kvm", "--force-9p", "--cpus", "2", "--memory", "3G"),
                *(
                    "--rwdir",
                    str(self.share),
                    f"--qemu-opts={shell} {port}",
                    "--",
                    f"bash {shlex.quote(str(script))}",
                ),
            ],
            cwd=REPOSITORY,
            env=os.environ | {"PATH": f"{Path(vng).parent}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._relay = threading.Thread(target=self._relay_output, name="vm-output", daemon=True)
        self._relay.start()

    def _pack_python(self) -> None:
        """Put Python's libraries into one archive: file by file over the shared root, each import takes seconds."""
        system_packages = Path(sysconfig.get_paths()["stdlib"]) / "site-packages"
        left_out = [f"--exclude={name}" for name in (*_NOT_FOR_THE_GUEST, str(system_packages).lstrip("/"))]
        paths = [path.lstrip("/") for path in _python_libraries()]
        command = ["tar", "-C", "/", "-cf", str(self.share / "python.tar"), *left_out, *paths]
        # 1 means that a file changed meanwhile, a cache of compiled modules most likely.
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode > 1:
            raise LabError(f"packing Python's libraries for the guest: {done.stderr}")

    def _guest_script(self) -> str:
        share = shlex.quote(str(self.share))
        environment = {
            IN_VM: "1",
            "WCCPD_VM_SHARE": str(self.share),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        return f"""\
export {exports}
cd {shlex.quote(str(REPOSITORY))} || exit 1
ip link set lo up
touch {share}/booted
mkdir /run/python && tar -C /run/python -xf {share}/python.tar && rm {share}/python.tar
for library in {shlex.join(_python_libraries())}; do
  mount --bind "/run/python$library" "$library" || exit 1
done
{self._shell_loop()}timeout --kill-after=10 {self._timeout_seconds:.0f} {shlex.join(self._command)} 2>&1
echo $? >{share}/exit-status.new && mv {share}/exit-status.new {share}/exit-status
"""

    def _shell_loop(self) -> str:
        if not self._shell:
            return ""
        # Reading the port is the end of file as long as nobody is connected; whoever connects sends a line first.
        return f"""\
while :; do
  until head -c1 /dev/virtio-ports/{_SHELL_PORT} | grep -qz .; do sleep 1; done
  script -qfc 'exec bash --norc -i' /dev/null <>/dev/virtio-ports/{_SHELL_PORT} >&0 2>&1
done &
"""

    def _relay_output(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while chunk := self._process.stdout.read1(65536):  # type: ignore[attr-defined]
            self._output(chunk)

    @property
    def running(self) -> bool:
        """Whether the guest was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait_booted(self) -> None:
        """Return when the guest runs commands.

        Raises:
            LabError: it ended before, or takes longer than `BOOT_TIMEOUT_SECONDS`.
        """

        def booted() -> bool:
            if (self.share / "booted").exists():
                return True
            if not self.running:
                raise LabError("the virtual machine ended before it ran anything")
            return False

        wait_until(booted, "running virtual machine", BOOT_TIMEOUT_SECONDS)

    def wait(self) -> int:
        """The command's exit status; 124 if it was ended for its time.

        Raises:
            LabError: the guest did not boot, or ended without a status.
        """
        assert self._process is not None
        try:
            self.wait_booted()
            self._process.wait(self._timeout_seconds + 60)
        except subprocess.TimeoutExpired:
            raise LabError("the virtual machine did not end in time") from None
        finally:
            self.stop()
        status = self.share / "exit-status"
        if not status.exists():
            raise LabError("the virtual machine ended without an exit status")
        return int(status.read_text())

    def stop(self) -> None:
        """End the guest and everything that belongs to it; does nothing if it has ended."""
        if self._process is not None:
            # The session is our own: virtme-ng and the QEMU that it started.
            for signal_number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal_number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(5)
        if self._relay is not None and self._relay is not threading.current_thread():
            self._relay.join(5)
