"""Command line of the lab: `demo [--keep]`, `enter [NODE]`, `down`. The Makefile calls it."""

import argparse
import os
import sys

from lab import network, vm_demo
from lab.demo import run_demo
from lab.errors import LabError
from lab.laboratory import Lab
from lab.topology import NAMESPACE_PREFIX, figure_one
from lab.vm import IN_VM, kernel_has_gre


def main() -> int:
    """Run one command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="build the lab and show it at work")
    demo.add_argument("--keep", action="store_true", help="leave the lab running")
    enter = commands.add_parser("enter", help="a shell on a node of the kept lab")
    enter.add_argument("node", nargs="?", default="router1", choices=[n.name for n in figure_one(2).nodes])
    commands.add_parser("down", help="remove the kept lab")
    commands.add_parser("keep-vm")
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "demo":
                return _demo(arguments.keep)
            case "enter":
                return _enter(arguments.node)
            case "down":
                return _down()
            case _:
                return vm_demo.keep_vm()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _demo(keep: bool) -> int:
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces: it needs root")
    if os.environ.get(IN_VM):
        return run_demo(_hold_in_vm if keep else None)
    if kernel_has_gre():
        return run_demo(_leave_running if keep else None)
    return vm_demo.run_in_kept_vm() if keep else vm_demo.run_in_vm()


def _leave_running(lab: Lab) -> None:
    lab.leave_running()
    print(_directions(lab, "  a shell on a node   make enter NODE=router1"), flush=True)


def _hold_in_vm(lab: Lab) -> None:
    shell = f"  a shell             make enter, then: ip netns exec {NAMESPACE_PREFIX}router1 bash"
    print(_directions(lab, shell), flush=True)
    vm_demo.hold_in_guest()


def _directions(lab: Lab, shell: str) -> str:
    socket = lab.directory / "router1" / "control.sock"
    nodes = ", ".join(node.name for node in lab.topology.nodes)
    return f"""
The lab is left running. Nodes: {nodes}.
{shell}
  on router1          .venv/bin/wccpctl --socket {socket} status
  on a spoke          curl http://203.0.113.10/
  logs, captures      {lab.directory}
  the end             make down
"""


def _enter(node: str) -> int:
    if kernel_has_gre():
        namespace = NAMESPACE_PREFIX + node
        if namespace not in network.leftover_namespaces():
            raise LabError("no lab is kept: `make demo KEEP=1` makes one")
        os.execvp("ip", ["ip", "netns", "exec", namespace, os.environ.get("SHELL", "/bin/bash")])
    vm_demo.enter_kept_vm()
    return 0


def _down() -> int:
    if vm_demo.end_kept_vm():
        print("the virtual machine and the lab in it are gone")
    if network.leftover_namespaces():
        with network.exclusive_use():
            network.remove_all()
        print("the lab is gone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
