"""Kernels that make the images and labels of a training from what lies in the files."""
