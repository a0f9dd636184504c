"""The kernel's side: what a data plane must do (`port`), who drives it (`reconciler`), and the planes."""
