"""Training: recipes, augmented data, and HF's Trainer underneath."""
