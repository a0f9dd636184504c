"""A thin typed binding to libbpf: load an object file, reach its maps and programs, attach, pin, try out.

Why libbpf by ctypes and not the bare bpf(2) call: loading a clang-built object means ELF, map definitions, BTF and
relocations, which libbpf does and keeps up with; every distribution ships it; and its calls are the few below.
ctypes is used in this package only. Knows nothing of WCCP.

    library = LibBpf()
    with BpfObject(library, Path("redirect.bpf.o")) as loaded:
        loaded.load()
        loaded.map("buckets").update(key, value)
        attach_tc(library, device_index, Direction.INGRESS, loaded.program("redirect"))

Calls block, and act on the network namespace of the calling thread where devices are named by index. What is
attached or pinned stays when the object is closed. Errors are `KernelError`; a program that the verifier refused is
its subclass `VerifierError`, with the verifier's last lines.
"""
