"""The complete set-up for the proxy's side, from the router's own configuration and what it knows of that cache.

`side` says what a proxy must agree with its routers in, `linux` writes the kernel's part as a shell script, `squid`
that and Squid's lines, `generic` the same facts for proxies that are set up by hand. Pure: values in, text out.
"""
