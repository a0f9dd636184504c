"""The eBPF data plane: tc programs that classify, redirect and take back. `program/` has their source.

`plane` is the port: what is in the kernel and what should be. `kernel` loads, pins and finds again programs and
maps; `image` makes a plan into the octets that the program reads; `cells` knows which counter counts what.
"""
