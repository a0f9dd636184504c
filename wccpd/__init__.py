"""wccpd: a WCCPv2 router for Linux. ARCHITECTURE.md tells how its parts fit together."""

__version__ = "0.1.0"
