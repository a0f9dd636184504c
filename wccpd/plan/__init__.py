"""Pure planning: from the engine's view to what the kernel should look like, and from there to operations.

`model` says what a kernel state is, `compile` makes the desired one, `diff` compares it with the observed
one. Nothing here talks to a kernel.
"""
