"""Calibration: what values a graph's tensors take on real samples, and the scales that follow from it."""
