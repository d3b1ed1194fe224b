"""Pure and synchronous: values in, values out. No sockets, no clock, no logging (ARCHITECTURE.md, invariants)."""
