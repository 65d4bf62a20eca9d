"""Training: one loop, two stages, checkpoints that survive being killed."""
