"""Commands that speak to a router over the network; the light client is enough for them."""
