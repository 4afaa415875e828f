"""Training: shards to batches, optimizers, schedules, the loop, exact resume."""
