"""Training: data sets and folds, augmentation, losses, the loop and its checkpoints (torch)."""
