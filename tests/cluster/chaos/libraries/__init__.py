"""The Python clients of Kubernetes, each doing the same: a watch, a loop of LISTs, a loop of creations.

Runs in the environment that programs.py makes, not in the project's.
"""
