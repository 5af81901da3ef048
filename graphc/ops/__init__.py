"""The ops: what each one means. A room per subject; `REGISTRY` joins them by name."""
