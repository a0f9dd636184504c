"""The shell: sockets, timers, signals, files and the order in which everything starts and stops."""
