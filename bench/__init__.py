"""Load tests: lbproxy beside nginx and HAProxy, in one run, over the same backends. README.md says how to read them."""
