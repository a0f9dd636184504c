"""Web-caches as the drafts and the field have them, for tests and for `wccpctl simulate`.

A simulated cache takes datagrams and the time and says what it sends; it knows no network. `network` joins caches
and routers on a virtual clock. Nothing here reads a clock, opens a socket or draws a number of its own.
"""
