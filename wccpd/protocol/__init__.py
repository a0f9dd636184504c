"""The deterministic WCCPv2 router engine: datagrams and `now` in, answers and frozen views out.

`router.Router` holds all service groups, `group.Group` the life of one, `membership.Member` that of one
web-cache. Nothing here opens a socket, reads a clock, draws a random number or logs.
"""
