"""Parts of the soak: a model that keeps a ledger, a relay that breaks connections, a client, the verdict."""
