"""Adapters: `kinds` has one module per adapter type, `api` the interface, `per_task` per-task weights."""
