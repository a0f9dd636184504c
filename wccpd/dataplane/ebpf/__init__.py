"""The eBPF data plane: tc programs that classify, redirect and take back; `program/` has their source.

    plane     the port: what is in the kernel and what should be
    kernel    programs and maps: loaded, pinned, found again
    image     a plan as the octets that the program reads
    cells     which counter counts what
"""
