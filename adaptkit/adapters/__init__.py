"""The adapters: one module a kind; `api` is what they share and `per_task` holds weights with a task axis."""
