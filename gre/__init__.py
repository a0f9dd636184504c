"""GRE: header values, tunnel specifications and the netlink verbs that make them devices.

A leaf package: it knows neither `wccpd` nor `bgp` nor `config`.
"""
