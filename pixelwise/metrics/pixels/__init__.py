"""Scores of one or several classes per pixel, most of them from one confusion matrix."""
