"""The demo network: the whole architecture in network namespaces of one machine.

`topology` says what is there, `network` makes it, `services` configures the programs that run in it,
`laboratory` is what tests and the demo drive, `vm` takes it all elsewhere if this kernel has no GRE devices.
Nothing here is installed with the daemon.
"""
