"""Kernels on masks: run lengths, components, and matching of predicted with annotated masks."""
