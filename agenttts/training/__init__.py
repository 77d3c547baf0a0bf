"""What both kinds of tuning share: models on disk, checkpoints, LoRA settings, training events."""
