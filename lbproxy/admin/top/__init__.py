"""`lbproxy top`: the balancer, live in a terminal."""
