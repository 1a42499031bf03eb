"""The run itself, in compiled code: calls, packs, steps, workers."""
