"""Simulated kube-apiservers with real watches: what `lbproxy demo`, the tests and the benchmarks run."""
