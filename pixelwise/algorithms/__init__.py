"""Methods without learned weights: plain functions, image in, label map out."""
