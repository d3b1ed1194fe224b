"""Loads that wrk cannot make: long streams, idle connections, storms, latency by the clock, several workers.

A trial starts its contender anew each time, so that memory is counted from the same beginning.
"""
