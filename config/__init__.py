"""Settings of a wccpd router: a YAML file in, frozen and checked values out.

`load` reads a file and raises `ConfigError` with every problem at its line and column; `Config` and its
sections are plain frozen models. A leaf: knows neither wccpd, nor bgp, nor gre.
"""

from config.errors import ConfigError, Problem
from config.loader import Loaded, load, load_with_warnings, parse, parse_with_warnings, read
from config.model import (
    Bgp,
    Config,
    Control,
    Kernel,
    Log,
    LogFormat,
    LogLevel,
    Router,
    Tunnel,
    redacted,
)
from config.services import Assignment, Mode, Redirect, Service

__all__ = [
    "Assignment",
    "Bgp",
    "Config",
    "ConfigError",
    "Control",
    "Kernel",
    "Loaded",
    "Log",
    "LogFormat",
    "LogLevel",
    "Mode",
    "Problem",
    "Redirect",
    "Router",
    "Service",
    "Tunnel",
    "load",
    "load_with_warnings",
    "parse",
    "parse_with_warnings",
    "read",
    "redacted",
]
