"""The boundary and region benchmarks of BSDS500."""
