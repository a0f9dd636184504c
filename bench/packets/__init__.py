"""What a packet costs on its way through a router, on one core, as a ratio to plain forwarding in the same run."""
