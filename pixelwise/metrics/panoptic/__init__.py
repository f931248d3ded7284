"""Panoptic quality (Kirillov et al. 2019)."""
