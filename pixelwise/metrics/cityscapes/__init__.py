"""The two benchmarks of Cityscapes: pixels and instances."""
