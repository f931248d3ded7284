"""Distances between surfaces, in two and three dimensions."""
